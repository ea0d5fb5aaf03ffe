#!/bin/sh
# Makes the demo title: an aqueduct at dusk, with a burnt-in time code.
#
#   make-title.sh [FOLDER]        default: title/ beside this script
#
# The result is committed; run this again only to change the film. It is drawn by ffmpeg's own
# filters, so that there is nothing to licence. What the files promise, and the tests rely on:
#
#   castellum-720.mp4   1280x720, above 589,824 pixels: protected under the HD key
#   castellum-360.mp4   640x360   the same film under the SD key; each rung says its own size
#   castellum-180.mp4   320x180   in the picture, so that a viewer sees which one is playing
#   castellum-eng.mp4   AAC-LC stereo, a rising A major arpeggio, one note a second
#   castellum-fra.mp4   AAC-LC stereo, a falling D minor one
#
# Video: H.264 at 25/s, closed GOPs of 2 s at the same instants in every rung, B-frames, an edit list.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/title}
seconds=32
rate=25

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

ffmpeg() {
    command ffmpeg -nostdin -hide_banner -loglevel error -y "$@"
}

font() {
    for folder in /usr/share/fonts/truetype/dejavu /usr/share/fonts/TTF /usr/share/fonts/dejavu; do
        if [ -f "$folder/$1" ]; then
            echo "$folder/$1"
            return
        fi
    done
    echo "make-title.sh: no $1 (Debian: apt-get install fonts-dejavu-core)" >&2
    exit 1
}
sans=$(font DejaVuSans.ttf)
mono=$(font DejaVuSansMono.ttf)

# One period of the aqueduct, 1280x320, drawn once: an attic, small arches above large ones.
# An arch of half width r around (x0, y0) is a half disc on two legs.
tier() { # period, half width, springing line, bottom
    echo "lt(abs(mod(X,$1)-$1/2),$2)*lt(Y,$4)*(gt(Y,$3)+lte(Y,$3)*lt(hypot(mod(X,$1)-$1/2,Y-$3),$2))"
}
upper=$(tier 64 22 78 104)
lower=$(tier 128 50 190 321)
stone="gt(Y,22)*(1-($upper))*(1-($lower))"
course="lt(mod(Y,21),1.5)*0.10+between(Y,22,27)*0.35+between(Y,104,108)*0.30"
ffmpeg -f lavfi -i "color=black:s=1280x320:r=1:d=1,format=rgba,geq=
r='(36+60*($course))*(1-Y/500)':
g='(28+48*($course))*(1-Y/500)':
b='(50+44*($course))*(1-Y/600)':
a='255*($stone)'" -frames:v 1 "$work/aqueduct.png"

# Two ridges of hills that repeat every 1280 pixels.
ridge="150+38*sin(2*PI*X/1280)+20*sin(6*PI*X/1280+1)+9*sin(14*PI*X/1280+2)"
ffmpeg -f lavfi -i "color=black:s=1280x320:r=1:d=1,format=rgba,geq=
r='78-Y/9':g='52-Y/12':b='86-Y/10':a='255*clip((Y-($ridge))/1.5,0,1)'" -frames:v 1 "$work/hills.png"

# The sky is smooth: an eighth of the size is plenty. The sun sinks from left to right.
sun_x="26+108*T/$seconds"
sun_y="26+22*T/$seconds"
near="hypot(X-($sun_x),Y-($sun_y))"
glow="exp(-$near/20)"
sky="color=black:s=160x70:r=$rate:d=$seconds,format=gbrp,geq=
r='clip(24+150*pow(Y/70,1.7)+150*($glow),0,255)':
g='clip(26+84*pow(Y/70,2)+104*($glow),0,255)':
b='clip(74+34*Y/70+34*($glow),0,255)',scale=1280:560:flags=bicubic"

# The water shows the upper half upside down, shaken by waves that grow towards the viewer.
waves="color=gray:s=320x40:r=$rate:d=$seconds,format=gray,geq=
lum='128+(3+Y/7)*(sin(Y*1.9/(1+Y/26)-T*2.4)+0.5*sin(X/9+Y/1.5+T*1.7))',scale=1280:160:flags=bicubic,format=gbrp"

# One long exposure of everything but the words, lossless, from which each rung is cut.
ffmpeg -f lavfi -i "$sky" -loop 1 -r $rate -i "$work/hills.png" -loop 1 -r $rate -i "$work/aqueduct.png" \
    -f lavfi -i "$waves" -f lavfi -i "color=gray:s=1280x160:r=$rate:d=$seconds,format=gbrp" \
    -filter_complex "
[1]split[h1][h2];[h1][h2]hstack[hills];
[2]split[a1][a2];[a1][a2]hstack[stones];
[0][hills]overlay=x='-mod(t*8,1280)':y=330:format=gbrp[far];
[far][stones]overlay=x='-mod(t*32,1280)':y=272:format=gbrp,format=gbrp,split[land][above];
[above]vflip,crop=1280:480:0:0,scale=1280:160,
colorchannelmixer=rr=0.62:gg=0.68:bb=0.80:bb=0.86[mirror];
[mirror][4][3]displace=edge=mirror[water];
[land][water]vstack,format=yuv444p[v]" \
    -map '[v]' -t $seconds -c:v libx264 -qp 0 -preset ultrafast "$work/film.mkv"

caption="drawtext=fontfile=$sans:text='C A S T E L L U M':fontsize=58:fontcolor=white@0.94:x=(w-tw)/2:y=92"
caption="$caption,drawtext=fontfile=$mono:timecode='00\\:00\\:00\\:00':rate=$rate:fontsize=34:fontcolor=white@0.90:x=(w-tw)/2:y=176"

rung() { # width, height, bits per second, profile
    label="drawtext=fontfile=$mono:text='$1 × $2':fontsize=26:fontcolor=white@0.80:x=w-tw-36:y=h-58"
    for pass in 1 2; do
        ffmpeg -i "$work/film.mkv" -an -vf "$caption,$label,scale=$1:$2:flags=lanczos,format=yuv420p" \
            -c:v libx264 -profile:v "$4" -preset slower -b:v "$3" -maxrate $(($3 * 3 / 2)) -bufsize $(($3 * 2)) \
            -g 50 -keyint_min 50 -sc_threshold 0 -flags +cgop+bitexact -bf 3 -pass $pass -passlogfile "$work/$2" \
            -colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv \
            -fflags +bitexact -movflags +faststart -metadata:s:v:0 handler_name=Castellum "$out/castellum-$2.mp4"
    done
}
rung 1280 720 560000 high
rung 640 360 170000 main
rung 320 180 64000 main

voice() { # language, handler, three frequencies
    note="(eq(mod(floor(t),3),0)*$3+eq(mod(floor(t),3),1)*$4+eq(mod(floor(t),3),2)*$5)"
    bell="exp(-2.5*mod(t,1))*min(1,mod(t,1)*60)"
    tone="0.24*$bell*(sin(2*PI*$note*t)+0.30*sin(4*PI*$note*t)*exp(-4*mod(t,1)))"
    ffmpeg -f lavfi -i "aevalsrc='$tone|0.9*$tone+0.02*sin(2*PI*$3/4*t)':s=48000:d=$seconds" \
        -c:a aac -profile:a aac_low -b:a 64000 -flags +bitexact -fflags +bitexact -movflags +faststart \
        -metadata:s:a:0 language="$1" -metadata:s:a:0 handler_name="$2" "$out/castellum-$1.mp4"
}
voice eng English 440 554.37 659.26
voice fra Français 440 349.23 293.66

du -bc "$out"/*.mp4
