"""A stand-in for a result on a GPU."""

from torch import Tensor

from fastbg.runs.pipeline import Arrival


class SlowArrival(Arrival):
    """A result that the device still works on until it is waited for."""

    here = False

    @property
    def ready(self) -> bool:
        return self.here

    def columns(self) -> dict[str, Tensor]:
        self.here = True
        return super().columns()
