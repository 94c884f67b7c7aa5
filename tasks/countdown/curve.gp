# gnuplot -e "run='runs/NAME'" curve.gp: accuracy, reflection and response length over the steps, as text and as SVG.
data = run . '/curve.tsv'
set key outside bottom center horizontal
set xlabel 'step'
set yrange [0:1]
set ylabel 'fraction of responses'
set y2label 'tokens'
set ytics nomirror
set y2tics
set y2range [0:*]
set term dumb size 110,28
plot data using 1:2 with lines title 'accuracy', data using 1:4 with lines title 'reflection', \
     data using 1:3 axes x1y2 with lines title 'response tokens (right axis)'
set term svg size 900,420 font 'sans,13' background 'white'
set output run . '/curve.svg'
set grid ytics lc rgb '#dddddd'
plot data using 1:2 with lines lw 2.5 lc rgb '#1b6ca8' title 'accuracy', \
     data using 1:4 with lines lw 2.5 lc rgb '#d1495b' title 'reflection', \
     data using 1:3 axes x1y2 with lines lw 2.5 lc rgb '#8d8d8d' dt 2 title 'response tokens (right axis)'
