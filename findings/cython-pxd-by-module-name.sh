#!/usr/bin/env bash
# Cython 3.3.1: which .pxd declares the cdef classes of a .pyx whose module has another name (--module-name).
#
# One expects the .pxd of the same name beside the .pyx, which is what is found where the module has the file's name. With
# `cython --module-name pkg._fast fast.pyx` (as Meson and hand-written builds do, where the source is not in the package's
# folder) fast.pxd is ignored without a word, so that an attribute that it declares does not exist. The file
# is looked up by the module's full dotted name, as a path below the include directories: pkg/_fast.pxd.
#
# Output seen, Cython 3.3.1, CPython 3.11:
#   fast.pxd beside fast.pyx: AttributeError: 'pkg._fast.Point' object has no attribute 'x'
#   pkg/_fast.pxd: 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet "cython==3.3.1"

declarations='cdef class Point:
    cdef public int x'
cat >fast.pyx <<'PYX'
cdef class Point:
    def __init__(self):
        self.x = 3
PYX

# Compiles fast.pyx as pkg._fast and prints Point().x, or the error.
try() {
	mkdir -p build/pkg
	rm -f build/pkg/_fast*
	touch build/pkg/__init__.py
	env/bin/cython -3 -I . --module-name pkg._fast -o build/fast.c fast.pyx || return 0
	local suffix include
	suffix=$(env/bin/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
	include=$(env/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
	gcc -shared -fPIC -O0 -I"$include" -o "build/pkg/_fast$suffix" build/fast.c
	(cd build && ../env/bin/python -c '
from pkg._fast import Point
try:
    print(Point().x)
except AttributeError as error:
    print("AttributeError:", error)
') 2>&1
}

echo "$declarations" >fast.pxd
beside=$(try)
echo "fast.pxd beside fast.pyx: $beside"
rm fast.pxd
mkdir -p pkg
echo "$declarations" >pkg/_fast.pxd
by_name=$(try)
echo "pkg/_fast.pxd: $by_name"

[[ $beside == *"no attribute 'x'"* && $by_name == 3 ]] || {
	echo "Cython's behaviour has changed"
	exit 1
}
