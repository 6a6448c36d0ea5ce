"""Our small part of `dataclasses` keeps its promises."""

import pytest

from runtime.base.frozen import asdict, field, frozen, names_of, replace


@frozen
class Point:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.x + self.y


@frozen
class Checked:
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError("below 0")


def test_arguments_by_place_and_by_name_with_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(1).tags) == (1, 2, [])
    assert Point(1, 5) == Point(y=5, x=1)
    assert Point(3).total == 5
    assert Point(1).tags is not Point(1).tags


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Point(), "lacks the argument 'x'"),
        (lambda: Point(1, 2, [], 4), "takes 3 arguments, 4 were given"),
        (lambda: Point(1, z=3), "takes no z here"),
        (lambda: Point(1, x=3), "takes no x here"),
    ],
)
def test_wrong_arguments_are_named(make: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()  # pyright: ignore


def test_nothing_can_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be set"):
        point.x = 2  # pyright: ignore
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del point.x


def test_equality_hash_repr_and_pattern() -> None:
    assert Checked(1) == Checked(1)
    assert Checked(1) != Checked(2)
    assert Checked(1) != Point(1)
    assert len({Checked(1), Checked(1), Checked(2)}) == 2
    assert repr(Point(1)) == "Point(x=1, y=2, tags=[])"
    match Point(7, 8):
        case Point(x, y):
            assert (x, y) == (7, 8)


def test_what_is_checked_after_the_defaults() -> None:
    with pytest.raises(ValueError, match="below 0"):
        Checked(-1)
    with pytest.raises(ValueError, match="below 0"):
        replace(Checked(1), value=-1)


def test_replace_and_asdict() -> None:
    assert replace(Point(1), y=9) == Point(1, 9)
    assert names_of(Point) == ("x", "y", "tags")

    @frozen
    class Holder:
        points: tuple[Point, ...]
        by_name: dict[str, Point]

    held = Holder((Point(1),), {"a": Point(2, 3, ["t"])})
    assert asdict(held) == {
        "points": [{"x": 1, "y": 2, "tags": []}],
        "by_name": {"a": {"x": 2, "y": 3, "tags": ["t"]}},
    }
