"""What a failure of the workers of Ray Train leads to: another try, or one line."""

from pathlib import Path

import pytest
import ray

from pipeline.errors import TrainingError
from pipeline.training.ray.run import Workers, run_workers

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "tries", "said"),
    [
        ("open('gone.jpg')", 1, r"the training set cannot be used: FileNotFoundError.*gone\.jpg"),
        ("from pipeline.errors import ImageError as E; raise E('empty', 'a.jpg is empty')", 1, "a.jpg is empty"),
        ("1 / 0", 2, "the workers failed: ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_comes_again_however_often_it_is_read_is_not_tried_again(raised, tries, said, in_ray, tmp_path):
    tried = tmp_path / "tried"

    def train(loop: dict[str, object]) -> None:
        with Path(str(loop["tried"])).open("a") as file:
            file.write("x")

        @ray.remote(num_cpus=0)
        def read() -> None:  # as Ray Data does it for the workers
            exec(raised)

        ray.get(read.remote())

    given = Workers(str(tmp_path), 1, 1, cpus_left=1, keep_checkpoints=2, max_failures=1)
    with pytest.raises(TrainingError, match=said) as error:
        run_workers(train, {"tried": str(tried)}, "stage1", given)
    assert "\n" not in str(error.value)
    assert tried.read_text() == "x" * tries
