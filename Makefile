# `make` lists what can be made. Each target first installs what it lacks: Debian packages, and LibTorch into .venv.
#   LIBTORCH=/path make build    uses a LibTorch that is already there (a directory with include/ and lib/)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test build bench fuzz mutants torture format lines clean

packages := g++ make cmake ninja-build ccache mold python3-venv libcxxopts-dev doctest-dev nlohmann-json3-dev \
            libutf8proc-dev libpcre2-dev libxxhash-dev gnuplot-nox
torch_version := 2.11.0
own_libtorch := .venv/libtorch-$(torch_version)
LIBTORCH ?= $(CURDIR)/$(own_libtorch)
PYTHON ?= python3
venv_python := $(CURDIR)/.venv/bin/python
# One compiler takes 1.3 GB for a file that includes torch/torch.h.
JOBS ?= $(shell awk -v n=$$(nproc) '/^MemAvailable/ { m = int($$2 / 1.5e6) } END { print m < 1 ? 1 : m < n ? m : n }' \
                    /proc/meminfo)

help: ## this list
	@awk -F ': .*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: build ## the R1-Zero effect on Countdown in minutes; ALGORITHM=grpo|ppo QUICK=1 SEED=0 DEVICE=cpu|cuda
	@tasks/countdown/demo.sh

test: build .venv/test-packages ## every test, C++ then Python
	@status=0
	build/tests | tee .cache/tests.log || status=$$?
	read -r passed _ failed _ < <(tail -1 .cache/tests.log) || true
	[[ "$$passed $$failed" =~ ^[0-9]+\ [0-9]+$$ ]] || passed=0 failed=0
	[ $$status = 0 ] || [ $$failed != 0 ] || { echo "build/tests ended with status $$status"; failed=1; }
	for check in $(sort $(wildcard tests/check_*.py)); do
	  echo "== $$check"
	  if $(venv_python) $$check; then passed=$$((passed + 1)); else failed=$$((failed + 1)); fi
	done
	echo "$$passed passed, $$failed failed"
	[ $$failed = 0 ]

build: .cache/packages $(if $(filter %/$(own_libtorch),$(LIBTORCH)),$(own_libtorch)) ## build/tiny_zero and build/tests
	@made_here() { grep -qsx "$$1" build/CMakeCache.txt; }  # a clone may be copied or moved with its build/
	made_here 'LIBTORCH:PATH=$(LIBTORCH)' && made_here 'CMAKE_HOME_DIRECTORY:INTERNAL=$(CURDIR)' && [ -e build/build.ninja ] ||
	  cmake --fresh -S . -B build -G Ninja -DLIBTORCH=$(LIBTORCH)
	cmake --build build -j $(JOBS)

bench: build .venv/test-packages ## speed of one step, beside the same step in plain PyTorch; ROUNDS=3
	@build/tiny_zero bench
	PYTHON=$(venv_python) ROUNDS=$(or $(ROUNDS),3) tests/bench_compare.sh

fuzz: build ## mutated files for the parsers, answers for the grader, under sanitizers, SECONDS=60 each
	@cmake --build build --target fuzz fuzz_math
	build/fuzz safetensors $(or $(SECONDS),60) tests/data/models/*/model*.safetensors
	build/fuzz tokenizer $(or $(SECONDS),60) tests/data/tokenizer/*/tokenizer.json
	build/fuzz json $(or $(SECONDS),60) tests/data/models/*/*.json tests/data/tokenizer/*/cases.jsonl tasks/math/sample.jsonl
	build/fuzz_math tests/data/fuzz_math.txt $(or $(SECONDS),60)

mutants: build .venv/test-packages ## plants a hundred bugs, one by one: the tests must notice each; hours, WORKERS=1
	@LIBTORCH=$(LIBTORCH) $(venv_python) tests/mutants.py --workers $(or $(WORKERS),1)

torture: build ## kills runs, fills their disk, damages their files: every run must end in the same bytes; minutes
	@python3 tests/torture.py --workers $(or $(WORKERS),2)

format: ## says what clang-format would change; FIX=1 changes it
	@command -v clang-format >/dev/null || $(call install,clang-format)
	git ls-files -co --exclude-standard '*.cpp' '*.h' '*.cu' '*.cuh' |
	  xargs clang-format $(if $(filter 1,$(FIX)),-i,--dry-run --Werror)

lines: ## lines of code of each part beside its limit; fails if one is above, or a line is longer than 100 columns
	@git ls-files -co --exclude-standard '*.cpp' '*.h' '*.cu' '*.cuh' | LC_ALL=C awk "$$count_lines"

clean: ## removes build/; LibTorch stays in .venv
	@rm -rf build

# ---- Lines of code ---------------------------------------------------------------------------------------------------

# An awk program that reads the names of the C++ and CUDA files. Blank lines and those with nothing but a // comment do
# not count; tests only have to keep to 100 columns.
define count_lines
function part(name, limit, pattern) { parts[++n] = name; limits[n] = limit; patterns[n] = "^(" pattern ")" }
function row(name, limit, lines) {
  above = lines > limit
  printf "%-24s %6d of %5d%s\n", name, lines, limit, above ? "   above its limit" : ""
  failed = failed || above
}
function complain(text) { print text; failed = 1 }
BEGIN {
  part("loop", 1600, "tiny_zero/((trainer|watch|rollout|scoring|advantage|loss|update|step_dump|learner|task)[.]|random[.]h)")
  part("model", 550, "tiny_zero/(model[.]|files/model_config[.]h)")
  part("Countdown", 850, "tasks/(countdown/|last_answer[.]|byte_tokenizer[.])")
  part("around it", 1500, "tiny_zero/(settings/|files/(json|run_directory)[.]|metrics[.]|main[.]cpp)")
  part("kernels", 1600, "tiny_zero/kernels/")
  part("real models' files", 850, "tiny_zero/files/(tokenizer|safetensors|safetensors_header)[.]|tiny_zero/files/model_config[.]cpp")
  part("MATH", 1300, "tasks/math/")
  part("verbs", 1500, "tiny_zero/verbs/")
  part("further methods", 700, "tiny_zero/methods/|tiny_zero/verbs/sft[.]|tasks/(form_rewards[.]|countdown/steps[.])")
  part("tests", 0, "tests/")
}
{
  own = 0
  for (i = 1; i <= n; ++i) if ($$0 ~ patterns[i]) own = i
  for (number = 1; (getline line < $$0) > 0; ++number) {
    count[own] += line !~ /^[ \t]*(\/\/.*)?$$/
    gsub(/[\200-\277]/, "", line)  # what follows the first byte of a UTF-8 character
    if (length(line) > 100) complain($$0 ":" number " is longer than 100 columns: make format FIX=1, or break it by hand")
  }
  if (!own && number > 1) complain($$0 " belongs to no part: name its part in the Makefile")
  close($$0)
}
END {
  for (i = 1; i <= 4; ++i) { row(parts[i], limits[i], count[i]); sum += count[i] }
  row("the full R1-Zero loop", 4500, sum)
  for (i = 5; i < n; ++i) row(parts[i], limits[i], count[i])
  exit failed
}
endef
export count_lines

# ---- What gets installed ---------------------------------------------------------------------------------------------

pip = for try in 1 2 3; do .venv/bin/python -m pip install --quiet $(1) && break; [ $$try -lt 3 ]; sleep 5; done

# Debian packages, as root or through sudo; without either, the command to run.
define install
if ! command -v apt-get >/dev/null; then
  echo "no apt-get here: if the build fails, install what Debian calls $(1)" >&2
else
  sudo=$$([ $$(id -u) = 0 ] || echo sudo -n)
  $$sudo true 2>/dev/null || { echo "Please run: sudo apt-get install $(1)" >&2; exit 1; }
  echo "installing the Debian packages $(1)"
  $$sudo apt-get update -qq
  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends $(1) >/dev/null
fi
endef

.cache/packages: Makefile
	@missing=
	for package in $(packages); do
	  dpkg -s $$package 2>/dev/null | grep -q '^Status: .* installed' || missing+=" $$package"
	done
	if [ -n "$$missing" ]; then $(call install,$$missing); fi
	mkdir -p .cache
	touch $@

.venv/bin/python: | .cache/packages
	@$(PYTHON) -c 'import ensurepip, venv' ||
	  { echo "$(PYTHON) lacks the module above; name another one: PYTHON=/usr/bin/python3 make build" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# torch's wheel without the 2.5 GB of CUDA libraries that it asks for: two small ones are enough to run on the CPU.
# With an NVIDIA GPU or nvcc three more join the toolkit's own; if one is missing even then, all of them.
$(own_libtorch): | .venv/bin/python
	@echo "installing LibTorch $(torch_version) into .venv (0.5 GB to download, 1.3 GB on disk)"
	$(call pip,--no-deps torch==$(torch_version) nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
	torch=$$(cd .venv && echo lib/python3*/site-packages/torch)  # relative: a clone may move
	if [ -e /dev/nvidia0 ] || command -v nvcc /usr/local/cuda/bin/nvcc >/dev/null; then
	  $(call pip,--no-deps nvidia-cufile==1.15.1.6 nvidia-cusparselt-cu13==0.8.0 nvidia-nvshmem-cu13==3.4.5)
	  if ldd .venv/$$torch/lib/libtorch_cuda.so | grep 'not found'; then $(call pip,torch==$(torch_version)); fi
	fi
	ln -sfn $$torch $@

# Python's torch, unlike LibTorch, loads every CUDA library: those are fetched only if a test imports it.
.venv/test-packages: tests/requirements.txt | $(own_libtorch)
	@$(call pip,-r tests/requirements.txt)
	if grep -qE '^ *(import|from) torch' tests/check_*.py && ! $(venv_python) -c 'import torch' 2>/dev/null; then
	  $(call pip,torch==$(torch_version))
	fi
	touch $@
