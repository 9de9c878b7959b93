"""Which of the workers' lines people see."""

from pipeline.run.worker_lines import MARK, WorkerLines, say, say_once

CUDA = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 12020)."


def test_what_a_worker_says_is_shown_and_what_ray_writes_is_not(capsys):
    say("stage 1 epoch 0: loss 1.5")
    (marked,) = capsys.readouterr().out.splitlines()
    carried = [
        "[2026-11-25 18:51:04,123 E 123 456] core_worker.cc:3154: Failed to get location of object",
        "Setting up process group for: env:// [rank=0, world_size=1]",
        marked,
        marked,
    ]
    assert WorkerLines().for_people(carried) == ["stage 1 epoch 0: loss 1.5"] * 2
    assert marked.startswith(MARK)


def test_trouble_with_memory_or_a_gpu_is_shown_once():
    lines = WorkerLines()
    assert lines.for_people([CUDA, "  return torch._C._cuda_getDeviceCount() > 0", CUDA]) == [f"a worker says: {CUDA}"]
    assert lines.for_people([CUDA]) == []
    killed = "1 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed"
    fault = "Fatal Python error: Segmentation fault"
    assert lines.for_people([killed, fault]) == [f"a worker says: {killed}", f"a worker says: {fault}"]
    triton = "Triton's kernels compute wrong here, so the network uses torch's operations (unpooling, 64 channels)"
    assert lines.for_people([triton, triton]) == [f"a worker says: {triton}"]
    (long,) = lines.for_people([f"CUDA out of memory {'x ' * 10_000}"])
    assert len(long) < 500


def test_what_every_worker_says_is_shown_once(capsys):
    for _ in range(2):
        say_once("the network computes in float32")
    say_once("the network computes in bfloat16")
    lines, (first, *others) = WorkerLines(), capsys.readouterr().out.splitlines()
    assert lines.for_people([first]) == ["the network computes in float32"]
    assert lines.for_people(others) == ["the network computes in bfloat16"]
