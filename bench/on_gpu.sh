#!/usr/bin/env bash
# Everything on a machine with one GPU, without nox and without a package registry:
#
#   bash bench/on_gpu.sh build check     builds, known answers, tests, compute-sanitizer
#   bash bench/on_gpu.sh build time      times and shares of the measured ceilings, a whole run
#   bash bench/on_gpu.sh build trace     Nsight Compute on each kernel
#
# Each takes about 10 minutes on 16 cores. Results are files in OUT (default gpu-out). Needs torch
# with CUDA, triton, nvcc, cmake, ninja, scikit-build-core, pybind11 and the packages of
# fastbg[test]. FASTBG_WHEEL names a wheel to take instead of building one. DEVICE=cpu runs every
# line that needs no GPU, on little data, with the fastbg that is installed: a test does that.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
out=${OUT:-gpu-out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
device=${DEVICE:-cuda}
python=${PYTHON:-python}
failed=0
unset FASTBG_BACKEND TRITON_INTERPRET FASTBG_EMULATE
export PYTHONUNBUFFERED=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 CUDA_MODULE_LOADING=LAZY

if [ "$device" = cuda ]; then
  export PATH=/usr/local/cuda/bin:$PATH PYTHONPATH=$out/site FASTBG_REQUIRE=cuda,triton
  size=()
  run_options=(--limit 100)
  kernels=(composite_fwd composite_lr mosaic gram_partial conv_gram_partial gram_reduce blur_path path_integral conv3x3)
else
  size=(--device cpu --tiny)
  kernels=(composite_fwd path_integral)
  run_options=(--limit 1 -o swap.size=64 -o swap.region=32 -o swap.sources=3 -o swap.groups=3
    -o swap.backgrounds=3 -o ring.count=2 -o ring.candidates=4 -o ring.size=64 -o ring.window=16 -o ring.sizes=0,32)
fi

# Says what comes, runs it within so many seconds, keeps what it prints; a failure is remembered.
step() {
  local name=$1 seconds=$2
  shift 2
  echo "== $(date +%T) $name"
  if timeout "$seconds" "$@" > "$out/$name.txt" 2>&1; then
    tail -n 3 "$out/$name.txt"
  else
    echo "FAILED ($?): $*"
    tail -n 30 "$out/$name.txt"
    failed=1
  fi
}

# The same where there is a GPU, whose tools it needs.
gpu_step() {
  if [ "$device" = cuda ]; then step "$@"; else echo "== not on a CPU: $1"; fi
}

build() {
  local wheel=${FASTBG_WHEEL:-}
  gpu_step machine 60 bash -c "nvidia-smi -q -d CLOCK,MEMORY,POWER; nvcc --version; '$python' -V; '$python' -m pip freeze"
  if [ -z "$wheel" ]; then
    rm -f "$out"/fastbg-*.whl
    gpu_step wheel 500 env CMAKE_BUILD_PARALLEL_LEVEL=16 FASTBG_CUDA=ON "$python" -m pip wheel --no-index --no-deps \
      --no-build-isolation -w "$out" . -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native
    wheel=$(echo "$out"/fastbg-*.whl)
  fi
  gpu_step install 120 "$python" -m pip install --no-index --no-deps --no-compile --upgrade --target "$out/site" "$wheel"
  step backends 120 "$python" -P bench/on_gpu.py backends "${size[@]}" --out "$out"
  [ "$failed" = 0 ] || exit 1
}

check() {
  step smoke 120 "$python" -P bench/on_gpu.py smoke "${size[@]}" --out "$out"
  gpu_step tests 400 bash -c "cd tests && '$python' -P -m pytest -c ../pyproject.toml --rootdir .. -o cache_dir='$out/cache' \
    -q --no-header --junitxml '$out/junit.xml' -k 'not emulat' test_composite.py test_seam.py test_seam_gpu.py test_path.py test_gram.py \
    test_conv.py test_conv_gpu.py test_conv_stack_gpu.py test_triton_kernels.py test_no_sync.py test_precision.py test_models.py test_attribution.py \
    test_experiment_swap.py test_experiment_ring.py test_fuzz.py"
  for tool in memcheck racecheck synccheck initcheck; do
    gpu_step "sanitizer_$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 0 \
      "$python" -P bench/on_gpu.py smoke --tiny --backend cuda --out "$out/$tool"
  done
}

time_() {
  step time 420 "$python" -P bench/on_gpu.py time "${size[@]}" --out "$out"
  step run 120 "$python" -P -m fastbg run swap ring --model edsr --device "$device" --out "$out/run" "${run_options[@]}"
}

trace() {
  local kernel profiler=()
  for kernel in "${kernels[@]}"; do
    if [ "$device" = cuda ]; then
      profiler=(ncu --clock-control none --set basic --section SpeedOfLight --section Occupancy --section WarpStateStats
        --section InstructionStats --section MemoryWorkloadAnalysis -k "regex:$kernel" -c 2 --csv)
    fi
    step "trace_$kernel" 60 "${profiler[@]}" "$python" -P bench/on_gpu.py once --only "$kernel" "${size[@]}" --out "$out"
  done
}

[ $# -gt 0 ] || set -- build check
for phase in "$@"; do
  case $phase in
    build) build ;;
    check) check ;;
    time) time_ ;;
    trace) trace ;;
    *)
      echo "unknown phase $phase: expected build, check, time or trace"
      exit 2
      ;;
  esac
done
exit "$failed"
