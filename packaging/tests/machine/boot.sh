#!/bin/sh
# Boots a real systemd in namespaces, on a throw-away copy of this very system: an overlay of its root whose
# changes stay in memory. Needs root; touches neither the host's files nor its processes nor its network.
#
#   boot.sh FOLDER
#
# Runs until it is killed, and the machine with it. FOLDER.pid then holds the process id of the machine's
# systemd, for nsenter. Processes of the machine are in cgroups of their own, named after FOLDER.
set -eu

folder=$(realpath "$1")
name=castellum-$(basename "$folder")

if [ "${2:-}" != inside ]; then
    # systemd takes charge of the control groups below its own: it is given one in each tree that has to do with it.
    for tree in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        if [ -e "$tree/cgroup.procs" ]; then
            mkdir -p "$tree/$name"
            echo $$ >"$tree/$name/cgroup.procs"
        fi
    done
    exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child "$0" "$folder" inside
fi

# Not $$, which is 1 in here: /proc is still the host's.
read -r pid rest </proc/self/stat
: "$rest"

mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mknod -m 0666 dev/null c 1 3
mknod -m 0666 dev/zero c 1 5
mknod -m 0666 dev/full c 1 7
mknod -m 0666 dev/random c 1 8
mknod -m 0666 dev/urandom c 1 9
mknod -m 0666 dev/tty c 5 0
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ip link set lo up

# What the host has enabled is not what is being tested.
rm -rf etc/systemd/system usr/sbin/policy-rc.d
mkdir -p etc/systemd/system

# pivot_root, not chroot: the kernel refuses user namespaces (PrivateUsers=) inside a chroot.
mkdir -p .host
pivot_root . .host
echo "$pid" >"/.host$folder.pid"
umount -l /.host
# Credentials are mounted for each service: that has to reach its namespace.
mount --make-rshared /
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --log-target=journal
