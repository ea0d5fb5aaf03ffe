#!/bin/sh
# Makes the test media: for each feature of the input one small file that has it, and nothing else special.
#
#   make-test-media.sh            writes target/test-media, prints its path; at once when it is up to date
#
# Layout, the same as a media root: NAME.mp4 is one file, NAME/ is one asset of several files.
# What each is for is said where it is made. Files under refused/ must be refused.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/target/test-media
wanted=$(sha256sum "$here/make-test-media.sh" | cut -c 1-64)
if [ "$(cat "$out/.stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "$out"
    exit 0
fi

# Two tests may ask at once: the second waits for the first, then finds it done.
mkdir -p "$out"
exec 9>"$out.lock"
flock 9
if [ "$(cat "$out/.stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "$out"
    exit 0
fi
rm -rf "$out"
mkdir -p "$out/refused"
cd "$out"

seconds=10

ffmpeg() {
    command ffmpeg -nostdin -hide_banner -loglevel error -y "$@"
}

picture() { # size, rate: a moving picture that is different in each frame
    echo "testsrc2=size=$1:rate=$2:duration=$seconds"
}

tone() { # hertz, rate
    echo "sine=frequency=$1:sample_rate=${2:-48000}:duration=$seconds"
}

# Key frames every 2 s and nowhere else.
gop="-g 50 -keyint_min 50 -sc_threshold 0 -flags +cgop+bitexact -fflags +bitexact"
avc="-c:v libx264 -preset veryfast -crf 30 -pix_fmt yuv420p -threads 1 $gop"
aac="-c:a aac -profile:a aac_low -b:a 64k -flags +bitexact -fflags +bitexact"

# shellcheck disable=SC2086 # options are meant to be split, here and below
{
# The plain case: B-frames, an edit list that takes their delay away, moov behind mdat.
ffmpeg -f lavfi -i "$(picture 640x360 25)" -f lavfi -i "$(tone 440)" $avc -bf 3 $aac bframes.mp4

# The same with moov in front.
ffmpeg -i bframes.mp4 -c copy -fflags +bitexact -movflags +faststart faststart.mp4

# No B-frames: decoding order is presentation order, no ctts.
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -bf 0 no-bframes.mp4

# ctts version 1 with negative offsets and no video edit list.
ffmpeg -i bframes.mp4 -c copy -fflags +bitexact -movflags +negative_cts_offsets negative-ctts.mp4

# B-frames whose delay no edit list takes away: presentation begins after zero. ffmpeg writes none when
# told so; the audio's priming stays audible.
ffmpeg -i bframes.mp4 -c copy -fflags +bitexact -use_editlist 0 no-edit-list.mp4

# Audio that begins 1.5 s after video: an empty edit.
ffmpeg -i bframes.mp4 -itsoffset 1.5 -i bframes.mp4 -map 0:v -map 1:a -c copy -fflags +bitexact delayed-audio.mp4

# Three audio tracks: two languages, one commentary without a language.
ffmpeg -i bframes.mp4 -f lavfi -i "$(tone 330)" -f lavfi -i "$(tone 220)" -map 0:v -map 0:a -map 1 -map 2 \
    -c:v copy $aac -metadata:s:a:0 language=eng -metadata:s:a:1 language=deu -metadata:s:a:2 language=und \
    -metadata:s:a:2 title=Commentary three-audio.mp4

# 29.97/s: no segment boundary falls on a whole millisecond.
ffmpeg -f lavfi -i "$(picture 320x180 30000/1001)" -f lavfi -i "$(tone 440)" $avc -bf 2 $aac ntsc.mp4

# Audio only, and audio that is mono at 16 kHz.
ffmpeg -f lavfi -i "$(tone 440)" -ac 2 $aac audio-only.mp4
ffmpeg -f lavfi -i "$(tone 440 16000)" -ac 1 -ar 16000 $aac mono-16k.mp4

# Video only, one GOP from end to end: a single segment.
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -bf 3 -g 9999 -keyint_min 9999 single-gop.mp4

# Open GOPs: the key frames after the first are recovery points with leading pictures.
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -bf 3 -flags -cgop -x264-params open-gop=1 open-gop.mp4

# Slice headers of every shape: four slices a picture, interlaced fields, CAVLC, weighted prediction,
# many references, 4 x 4 quantiser offsets.
ffmpeg -f lavfi -i "$(picture 640x360 25)" $avc -bf 3 -x264-params slices=4 multi-slice.mp4
ffmpeg -f lavfi -i "$(picture 640x360 25)" -vf tinterlace=interleave_top,fieldorder=tff $avc -bf 2 \
    -flags +ilme+ildct -x264-params tff=1 interlaced.mp4
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -profile:v baseline -bf 0 cavlc-baseline.mp4
ffmpeg -f lavfi -i "$(picture 320x180 25),fade=in:0:100" $avc -bf 4 -refs 6 \
    -x264-params weightp=2:weightb=1:b-pyramid=normal:partitions=all weighted.mp4
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -pix_fmt yuv420p10le -profile:v high10 -bf 2 high10.mp4

# Chunk offsets of 64 bits (co64): the box is rewritten, since ffmpeg writes it only beyond 4 GiB.
python3 - no-bframes.mp4 co64.mp4 <<'PYTHON'
import struct, sys

source, target = sys.argv[1:]
data = bytearray(open(source, "rb").read())

def boxes(start, end):
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start, size
        start += size

# moov stands behind mdat, so that a longer moov moves no sample.
path = [(b"moov", 0, len(data))]
opened = []
start, end = 0, len(data)
for wanted in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco"):
    kind, at, size = next(box for box in boxes(start, end) if box[0] == wanted)
    opened.append((at, size))
    start, end = at + 8, at + size
at, size = opened.pop()
count = struct.unpack_from(">I", data, at + 12)[0]
offsets = struct.unpack_from(f">{count}I", data, at + 16)
co64 = struct.pack(f">I4sII{count}Q", 16 + 8 * count, b"co64", 0, count, *offsets)
for parent, parent_size in opened:
    struct.pack_into(">I", data, parent, parent_size + len(co64) - size)
data[at:at + size] = co64
open(target, "wb").write(data)
PYTHON

# A ladder: three rungs with common key frames, two languages in files of their own. The 1280x720 rung is
# above 589,824 pixels and takes the HD key.
mkdir ladder
for size in 320x180 640x360 1280x720; do
    ffmpeg -f lavfi -i "$(picture $size 25)" $avc -bf 3 "ladder/${size#*x}.mp4"
done
ffmpeg -f lavfi -i "$(tone 440)" -ac 2 $aac -metadata:s:a:0 language=eng ladder/eng.mp4
ffmpeg -f lavfi -i "$(tone 330)" -ac 2 $aac -metadata:s:a:0 language=fra ladder/fra.mp4

# Rungs of 2 s and 4 s GOPs agree at each multiple of 4 s: packaged.
mkdir common-4s
ffmpeg -f lavfi -i "$(picture 640x360 25)" $avc -bf 3 common-4s/a.mp4
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -bf 3 -g 100 -keyint_min 100 common-4s/b.mp4

# Rungs without a common key frame after the first: refused, with the instants.
mkdir refused/misaligned
cp bframes.mp4 refused/misaligned/a.mp4
ffmpeg -f lavfi -i "$(picture 320x180 25)" $avc -bf 3 -g 60 -keyint_min 60 refused/misaligned/b.mp4

# Fragmented input, a codec that is not taken, a file cut short, one that is no MP4.
ffmpeg -i bframes.mp4 -c copy -fflags +bitexact -movflags +frag_keyframe+empty_moov refused/fragmented.mp4
ffmpeg -f lavfi -i "$(picture 320x180 25)" -c:v mpeg4 -flags +bitexact -fflags +bitexact refused/mpeg4-part2.mp4
head -c 60000 faststart.mp4 >refused/truncated.mp4
head -c 4096 /dev/zero >refused/zeros.mp4
}

echo "$wanted" >.stamp
echo "$out"
