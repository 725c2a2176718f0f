# Sourced by lint.sh and fmt.sh: the tools, pinned, in an environment of their own. A new version is a commit.
TOOLS=(ruff==0.17.6 mypy==2.4.1 clang-format==23.1.5 types-cffi==2.1.0.20260827)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=".tools/$(printf '%s ' "${TOOLS[@]}" | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
    "${PYTHON:-python3}" .ci/preflight.py
    rm -rf .tools
    if ! "${PYTHON:-python3}" -m venv .tools 2>/dev/null; then
        "${PYTHON:-python3}" -m venv --clear --without-pip .tools
        "${PYTHON:-python3}" -m pip --python .tools/bin/python install --quiet pip
    fi
    .tools/bin/python -m pip install --quiet --disable-pip-version-check "${TOOLS[@]}"
    touch "$stamp"
fi
PATH="$PWD/.tools/bin:$PATH"

c_files() { find csrc tests/c tests/fuzz -name '*.[ch]' | sort; }
