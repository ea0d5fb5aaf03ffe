#!/bin/sh
# Makes the titles that `loadtest bench` serves, once: about two minutes of one core and 1.2 GB.
#
#   corpus.sh DIR
#
#   DIR/abr/r0.mp4 .. r3.mp4   ten minutes, 25 fps, four rungs from 1080p at 6 Mb/s to 360p at 0.7 Mb/s, AAC 128 kb/s
#   DIR/long.mp4               two hours at 256x144 and 0.25 Mb/s, AAC 64 kb/s: what counts is its length
#   DIR/short.mp4              its first five minutes: segments as long, in a title that is not
#
# Noise keeps the encoder at its bit rate; closed GOPs of 2 s give every 4 s segment the same length. A part is encoded
# and then repeated by stream copy, so that cadence, composition offsets and sizes are those of real film.
set -eu

media=${1:?usage: corpus.sh DIR}
mkdir -p "$media"
stamp=$media/.recipe
recipe=$(cksum <"$0")
if [ "$(cat "$stamp" 2>/dev/null)" = "$recipe" ]; then
    exit 0
fi
rm -rf "$stamp" "$media/abr" "$media/long.mp4" "$media/short.mp4"
parts=$(mktemp -d "$media/.parts-XXXXXX")
trap 'rm -rf "$parts"' EXIT
mkdir "$parts/abr"
echo "Making the titles to measure with in $media (once, about two minutes)" >&2

quiet="ffmpeg -nostdin -loglevel error -y"
# rung BITRATE_KB B_FRAMES: x264 held to one bit rate.
rung() {
    echo "-c:v libx264 -preset ultrafast -bf $2 -b:v $1k -minrate $1k -maxrate $1k -bufsize $1k" \
        "-g 50 -keyint_min 50 -sc_threshold 0 -flags +cgop -pix_fmt yuv420p"
}
sound="-c:a aac -ac 2 -ar 48000"

# shellcheck disable=SC2046,SC2086 # the options are meant to be split
$quiet -f lavfi -i testsrc2=size=1920x1080:rate=25:duration=60 -f lavfi -i sine=frequency=440:duration=60:sample_rate=48000 \
    -filter_complex "[0:v]noise=alls=20:allf=t,split=4[a][b][c][d];[b]scale=1280:720[e];[c]scale=854:480[f];[d]scale=640:360[g]" \
    -map '[a]' -map 1:a $(rung 6050 2) $sound -b:a 128k "$parts/r0.mp4" \
    -map '[e]' -map 1:a $(rung 3000 2) $sound -b:a 128k "$parts/r1.mp4" \
    -map '[f]' -map 1:a $(rung 1400 0) $sound -b:a 128k "$parts/r2.mp4" \
    -map '[g]' -map 1:a $(rung 700 0) $sound -b:a 128k "$parts/r3.mp4"
# shellcheck disable=SC2046,SC2086
$quiet -f lavfi -i testsrc2=size=256x144:rate=25:duration=300 -f lavfi -i sine=frequency=440:duration=300:sample_rate=48000 \
    -filter_complex "[0:v]noise=alls=20:allf=t[v]" \
    -map '[v]' -map 1:a $(rung 250 2) $sound -b:a 64k "$parts/long.mp4"

# repeat PART TIMES TITLE
repeat() {
    $quiet -stream_loop $(($2 - 1)) -i "$parts/$1" -c copy -movflags +faststart "$parts/$3"
}
for name in r0 r1 r2 r3; do
    repeat "$name.mp4" 10 "abr/$name.mp4"
done
repeat long.mp4 24 whole.mp4
repeat long.mp4 1 short.mp4

mv "$parts/abr" "$parts/short.mp4" "$media/"
mv "$parts/whole.mp4" "$media/long.mp4"
echo "$recipe" >"$stamp"
