"""What a run writes while it trains."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import checkpoint
import plots
from data import UsageError

Values = dict[str, float]
"""What a step has to tell, by name."""


class Record:
    """The log, the board, the bar, the pictures and the checkpoints of a run.

    Where the run is new, its first checkpoint is written when the record is entered.

    Args:
        trainer: A trainer of `train.py`.
        out: The folder of the run.
        again: What goes on with a run that was stopped, as its message says.
    """

    def __init__(self, trainer: Any, out: Path, again: str = "--resume") -> None:
        self.trainer, self.config, self.out, self.again = trainer, trainer.config, out, again
        self.seconds, self.timed, self.kept = 0.0, 0, trainer.step

    def __enter__(self) -> "Record":
        with self._writing():
            self._open(self.trainer.step)
        return self

    def _open(self, start: int) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if not start:
            self._checkpoint()
        (self.out / "samples").mkdir(exist_ok=True)
        path = self.out / "log.jsonl"
        checkpoint.cut_log(path, start)
        self.log = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(
            self.out / "tensorboard", purge_step=start + 1 if start else None
        )
        self.bar = tqdm(total=self.config.steps, initial=start, unit="step", disable=None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._writing():
            for each in (self.bar, self.log, self.board):
                each.close()
        if kind and issubclass(kind, KeyboardInterrupt):
            raise kind(
                f"after step {self.trainer.step}; {self.again} goes on from the checkpoint of step "
                f"{self.kept}"
            )

    def step(self, values: Values, seconds: float, stopped: bool) -> None:
        """Write what is due after a step.

        Args:
            values: What the step has to tell.
            seconds: How long it took, its data included.
            stopped: Whether the run ends here, before its last step.
        """
        self.seconds, self.timed = self.seconds + seconds, self.timed + 1
        self.bar.update()
        with self._writing():
            self._write(values, stopped)

    def _write(self, values: Values, stopped: bool) -> None:
        config, step = self.config, self.trainer.step
        if not (self.out / "tensorboard").is_dir():  # the board's thread would print a traceback
            raise UsageError(
                f"{self.out}, or the folder tensorboard in it, is gone; {self.again} goes on "
                "from the checkpoint, if that is still there or a copy of the run is put back"
            )
        last = step == config.steps
        if step % config.log_every == 0:
            self._tell(step, values)
        if step % config.sample_every == 0 or last:
            self.log.flush()
            shown = self.trainer.sample(plots.COUNT, seed=config.seed)
            plots.samples(shown, self.out / "samples" / f"{step:07}.png")
            plots.curves(checkpoint.read_log(self.out / "log.jsonl"), self.out / "curves.png")
        if step % config.checkpoint_every == 0 or last or stopped:
            self.log.flush()  # first, so that the log is never behind the checkpoint
            self._checkpoint()

    def _tell(self, step: int, values: Values) -> None:
        """The values and the speed since the last line, to the log, the board and the bar."""
        mean = self.seconds / self.timed
        self.seconds, self.timed = 0.0, 0
        values |= {"seconds_per_step": mean, "samples_per_second": self.config.batch_size / mean}
        self.log.write(json.dumps({"step": step} | values) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()})

    def _checkpoint(self) -> None:
        checkpoint.save(self.trainer.state_dict(), self.out / "checkpoint.pt")
        self.kept = self.trainer.step

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"{self.out} cannot be written ({error}); make room, or choose another --out. If there "
                f"is a checkpoint, it is kept, and {self.again} goes on from it"
            ) from error
