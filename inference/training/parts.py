"""Followers of one part of a longer work: a round of a cross-validation, a network of several."""

from __future__ import annotations

from inference.training.fit import Watcher

MOST = 60  # letters of a curve's name


class Part:
    """A share of the progress bar, from `start` (0–1) on; `words` stand before all that is said.

    curves: whether the part's curves are kept, under names of their own.
    """

    def __init__(self, watcher: Watcher, start: float, share: float, words: str, *, curves: bool = False) -> None:
        self.watcher, self.start, self.share, self.words, self.curves = watcher, start, share, words, curves

    def log(self, text: str) -> None:
        self.watcher.log(f"{self.words}: {text}")

    def progress(self, fraction: float, text: str = "") -> None:
        self.watcher.progress(self.start + self.share * fraction, f"{self.words}: {text}")

    def metric(self, name: str, step: int, value: float) -> None:
        if self.curves:
            own = f"{', ' if '/' in name else '/'}{self.words}"
            self.watcher.metric(name[: MOST - len(own)] + own, step, value)

    def check(self) -> None:
        self.watcher.check()
