#!/usr/bin/env bash
# Checks what would be published: the source archive builds, its wheel keeps the promises of its name, and it works in
# every supported CPython of this machine. The work tree is not touched. What a machine lacks is reported and left out;
# only the Python that runs this has to work.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
"$PYTHON" .ci/preflight.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

environment() { # a virtual environment of the Python $1 in the folder $2
    "$1" -m venv "$2" 2>/dev/null || { "$1" -m venv --clear --without-pip "$2" && "$PYTHON" -m pip --python "$2/bin/python" install --quiet pip; }
}

install() { # packages, for the Python $1: one new pip serves all; most modules are never imported
    local python=$1
    shift
    "$work/tools/bin/python" -m pip --python "$python" install --quiet --no-compile "$@"
}

pythons() { # every CPython that can be found and is supported (pyproject.toml), one of each version
    local python
    for python in "$PYTHON" python3.{10..20} ~/.pyenv/versions/*/bin/python3; do
        command -v "$python" >/dev/null || continue
        "$python" - 2>/dev/null <<'EOF' || true
import sys, sysconfig

version = "%d.%d" % sys.version_info[:2]
supported = '"Programming Language :: Python :: %s"' % version in open("pyproject.toml", encoding="utf-8").read()
if supported and sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print(version, sys.executable)
EOF
    done | sort -V -u -k 1,1
}

environment "$PYTHON" "$work/tools"
"$work/tools/bin/python" -m pip install --quiet --upgrade pip build==1.6.1 auditwheel==6.8.2 abi3audit==0.0.26
export SOURCE_DATE_EPOCH=1700000000 # any date: two builds have to be the same bytes
mkdir "$work/source"
git ls-files --cached --others --exclude-standard | while read -r file; do [ -e "$file" ] && echo "$file"; done \
    | tar cf - -T - | tar xf - -C "$work/source" # a copy: setuptools leaves files where it builds
"$work/tools/bin/python" -m build --outdir "$work/dist" "$work/source" >"$work/log" 2>&1 || { tail -40 "$work/log"; exit 1; }
wheel=$(echo "$work"/dist/*.whl)
"$work/tools/bin/python" -m build --wheel --outdir "$work/again" "$work/source" >"$work/log" 2>&1 || { tail -40 "$work/log"; exit 1; }
cmp "$wheel" "$work"/again/*.whl # the first was built in another folder, that of the unpacked source archive
echo "built $(ls "$work/dist" | tr '\n' ' ')"
if [ "$(uname)" = Linux ]; then
    "$work/tools/bin/auditwheel" show "$wheel"
else
    echo "auditwheel knows Linux only: not asked"
fi
case $wheel in
    *-abi3-*) "$work/tools/bin/abi3audit" --strict --summary "$wheel" ;;
    *) echo "no wheel for the stable ABI: nothing for abi3audit, and for no other Python"; exit 0 ;;
esac

mkdir "$work/run"
cp -r tests examples pyproject.toml "$work/run"

try_wheel() { # in the environment of one version
    local python=$work/$1/bin/python
    cd "$work/run"
    install "$python" "${wheel}[http2]" pytest pytest-timeout pytest-benchmark hypothesis trustme
    "$python" -W error examples/split_queue.py
    "$python" -W error examples/split_threads.py
    "$python" -m zcws info
    "$python" -m pytest -q --no-header tests/test_kernel.py tests/test_inlet.py tests/test_writer.py \
        tests/test_leasing.py tests/test_connector.py tests/test_acceptor.py tests/aio/test_eager.py
}

found=$(pythons) # not in a process substitution: a failure there ends nothing, and the wheel would be tried in no Python
failed=0
own=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
while read -r version python <&3; do
    if ! "$python" -m venv --without-pip "$work/$version" >"$work/log" 2>&1; then
        echo "left out: $python can make no virtual environment"
        [ "$version" != "$own" ] || failed=1
        continue
    fi
    try_wheel "$version" >"$work/log" 2>&1 </dev/null & # in the condition of an `if`, bash ignores `set -e`
    if wait $!; then
        echo "works in CPython $version: $(tail -1 "$work/log")"
    else
        tail -40 "$work/log"
        echo "does not work in CPython $version"
        failed=1
    fi
done 3<<<"$found"
exit $failed
