"""Where head, torso and limbs of a figure are in each pose. Units are pixels, x = 0 is the middle of the figure."""

from dataclasses import dataclass

from finetune.datasets.scenes.canvas import Point

Path = tuple[Point, ...]


@dataclass(frozen=True)
class Pose:
    """A figure on two legs, unmirrored. Arms run from shoulder to wrist, legs from hip to ankle."""

    head: Point
    torso: Path  # outline
    arms: tuple[Path, Path]
    legs: tuple[Path, Path]
    shoes: tuple[tuple[Point, Point, float], tuple[Point, Point, float]]  # center, radii, angle in degrees
    skirt: Path  # outline
    tail: Path


def _torso(dy: float) -> Path:
    left = [(-28, 236), (-50, 250), (-55, 300), (-57, 350), (-48, 372), (0, 376)]
    return tuple((x, y + dy) for x, y in (*left, *((-x, y) for x, y in reversed(left[:-1]))))


SITTING = 52.0  # how much lower than a standing figure a sitting one has its head

POSES: dict[str, Pose] = {
    "standing": Pose(
        head=(0, 160),
        torso=_torso(0),
        arms=(((-46, 266), (-76, 304), (-88, 344)), ((46, 266), (76, 304), (88, 344))),
        legs=(((-28, 358), (-30, 430)), ((28, 358), (30, 430))),
        shoes=(((-35, 439), (29, 14), 0), ((35, 439), (29, 14), 0)),
        skirt=((-46, 318), (-94, 392), (-48, 402), (0, 404), (48, 402), (94, 392), (46, 318)),
        tail=((34, 362), (104, 384), (146, 348)),
    ),
    "dancing": Pose(
        head=(0, 160),
        torso=_torso(0),
        arms=(((-46, 268), (-104, 280), (-148, 226)), ((46, 268), (104, 240), (142, 158))),
        legs=(((-26, 358), (-44, 392), (-28, 430)), ((28, 356), (92, 372), (138, 402))),
        shoes=(((-36, 439), (29, 14), 0), ((154, 402), (29, 14), -58)),
        skirt=((-46, 318), (-104, 382), (-54, 402), (4, 404), (62, 408), (118, 396), (46, 318)),
        tail=((-34, 362), (-100, 386), (-146, 346)),
    ),
    "sitting": Pose(
        head=(0, 160 + SITTING),
        torso=_torso(SITTING),
        arms=(((-46, 320), (-80, 352), (-62, 392)), ((46, 320), (80, 352), (62, 392))),
        legs=(((-30, 414), (-104, 426)), ((30, 414), (104, 426))),
        shoes=(((-126, 420), (17, 31), -14), ((126, 420), (17, 31), 14)),
        skirt=((-46, 366), (-92, 394), (-108, 440), (0, 448), (108, 440), (92, 394), (46, 366)),
        tail=((40, 420), (120, 396), (152, 348)),
    ),
}
