"""Experts for POPGym's tasks, one player for each: a player sees only what an agent sees, and forgets nothing.

A player lives for one episode. It receives the observations one by one, and knows its own actions and the rules. An
agent with a perfect memory can therefore act as the player does. A player draws nothing at random: of equally good
actions it takes the first, so that its choices can be learnt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from math import comb, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmt_rl.envs._popgym_control import CartPole, Pendulum
from rmt_rl.envs._popgym_player import Player

Floats = NDArray[np.float64]
Placements = list[tuple[int, list[int]]]
"""Places where a ship can lie, each as a bit mask of its squares and as a list of its squares."""


class Autoencode(Player):
    """Player that puts the cards on a stack while they are shown, and takes them off the stack afterwards."""

    def __init__(self, game: Any) -> None:
        self._pile: list[int] = []
        self._watching = True

    def act(self, observation: tuple[int, int]) -> int:
        """Return the card for an observation (mode, card). The first observation of mode 0 still shows a card."""
        mode, card = observation
        if self._watching:
            self._pile.append(card)
        self._watching = mode == 1
        return 0 if self._watching or not self._pile else self._pile.pop()


class RepeatFirst(Player):
    """Player that always names the first card."""

    def __init__(self, game: Any) -> None:
        self._first: int | None = None

    def act(self, observation: int) -> int:
        """Return the first card, for the card shown now."""
        if self._first is None:
            self._first = observation
        return self._first


class RepeatPrevious(Player):
    """Player that names the card shown k - 1 steps ago, or 0 if there is none yet."""

    def __init__(self, game: Any) -> None:
        self._cards: deque[int] = deque([0] * game.k, game.k)

    def act(self, observation: int) -> int:
        """Return the card of k - 1 steps ago, for the card shown now."""
        self._cards.append(observation)
        return self._cards[0]


class CountRecall(Player):
    """Player that counts the cards dealt."""

    def __init__(self, game: Any) -> None:
        self._counts: list[int] = [0] * game.num_distinct_cards

    def act(self, observation: NDArray[np.int64]) -> int:
        """Return how often the card asked for was dealt, for an observation (card dealt, card asked for)."""
        dealt, asked = int(observation[0]), int(observation[1])
        self._counts[dealt] += 1
        return self._counts[asked]


class HigherLower(Player):
    """Player that counts the cards left. It bets on lower (1) if more of them are lower than the card, else higher."""

    def __init__(self, game: Any) -> None:
        self._left = [4 * game.num_decks] * 13

    def act(self, observation: int) -> int:
        """Return the bet for the rank of the card shown."""
        self._left[observation] -= 1
        return int(sum(self._left[:observation]) > sum(self._left[observation + 1 :]))


class MultiarmedBandit(Player):
    """Player that plays the bandit with the largest posterior mean + 1.5 standard deviations, from a uniform prior.

    The player thus stays with a bandit that pays, and otherwise tries the bandits in order. The factor 1.5 is the best
    between 0.5 and 2.
    """

    def __init__(self, game: Any) -> None:
        self._plays, self._wins = np.full(game.num_bandits, 2.0), np.ones(game.num_bandits)
        self._last: int | None = None

    def act(self, observation: int) -> int:
        """Return the next bandit to play. The observation is 1 if the last play paid, else 0."""
        if self._last is not None:
            self._plays[self._last] += 1
            self._wins[self._last] += observation
        mean = self._wins / self._plays
        index = mean + 1.5 * np.sqrt(mean * (1 - mean) / (self._plays + 1))
        self._last = first_best(index)
        return self._last

    def replace(self, action: Any) -> None:
        self._last = int(action)


class Concentration(Player):
    """Player that turns a known pair, if any. Else it turns a new card, then its known partner or another new card."""

    def __init__(self, game: Any) -> None:
        self._hidden = game.facedown_card
        self._known: dict[int, int] = {}  # faces seen of the cards that are still in play, by the cards' index
        self._turned: list[int] = []  # cards turned so far in this turn, at most two
        self._paired: set[int] = set()  # cards that are no longer in play

    def act(self, observation: NDArray[np.int64]) -> int:
        """Return the index of the card to turn, for the faces of all cards."""
        if self._turned:
            self._see(observation)
        new = np.flatnonzero(observation == self._hidden)
        unknown = [card for card in new.tolist() if card not in self._known]
        card = self._partner() if self._turned else self._pair()
        self._turned.append(card if card is not None else (unknown or [0])[0])
        return self._turned[-1]

    def replace(self, action: Any) -> None:
        self._turned[-1] = int(action)

    def _see(self, observation: NDArray[np.int64]) -> None:
        """Note the face of the card that was turned last, and whether this ended the turn."""
        if self._turned[-1] in self._paired:  # which ends the turn at once
            self._turned = []
            return
        self._known[self._turned[-1]] = int(observation[self._turned[-1]])
        if len(self._turned) < 2:
            return
        one, other = self._turned
        if one != other and self._known[one] == self._known[other]:
            del self._known[one], self._known[other]
            self._paired |= {one, other}
        self._turned = []

    def _pair(self) -> int | None:
        faces = list(self._known.values())
        return min((card for card, face in self._known.items() if faces.count(face) > 1), default=None)

    def _partner(self) -> int | None:
        turned = self._turned[0]
        face = self._known[turned]
        return min((card for card, other in self._known.items() if other == face and card != turned), default=None)


class Battleship(Player):
    """Player that fires at the square where most of the fleets consistent with all hits and misses have a ship.

    The player counts all ways in which ships explain the hits. The count ignores that the ships which explain no hit
    must not overlap each other.
    """

    def __init__(self, game: Any) -> None:
        self._side, self._sizes = game.board_size, tuple(sorted(game.ship_sizes))
        self._hits = self._misses = 0
        self._last: int | None = None

    def act(self, observation: int) -> tuple[int, int]:
        """Return the square (row, column) to fire at. The observation tells whether the last shot hit."""
        if self._last is not None:
            self._note(1 << self._last, bool(observation))
        chances = self._chances()
        tried = self._hits | self._misses
        chances[[square for square in range(self._side**2) if tried >> square & 1]] = -1
        self._last = first_best(chances / max(chances.max(), 1))
        return self._last // self._side, self._last % self._side

    def replace(self, action: Any) -> None:
        row, column = action
        self._last = int(row) * self._side + int(column)

    def _note(self, square: int, is_hit: bool) -> None:
        if square & (self._hits | self._misses):  # a second shot at a square counts as a miss
            return
        if is_hit:
            self._hits |= square
        else:
            self._misses |= square

    def _chances(self) -> Floats:
        """Return the number of fleets that cover each square, float64 (squares,)."""
        chances = np.zeros(self._side**2)
        apart = {size: self._free(size) for size in set(self._sizes)}
        weights = dict.fromkeys(apart, 0.0)  # by size: fleets with a ship that explains no hit at a given place

        def explain(hits: int, sizes: tuple[int, ...], used: int) -> float:
            """Return the number of fleets in which ships of these sizes explain these hits, and count their squares."""
            if not hits:
                fleets = float(prod(len(apart[size]) for size in sizes))
                for size in sizes:
                    weights[size] += fleets / max(len(apart[size]), 1)
                return fleets
            total = 0.0
            for index, size in enumerate(sizes):
                for bits, squares in ships_through(self._side, size, (hits & -hits).bit_length() - 1):
                    if not bits & (used | self._misses):
                        fleets = explain(hits & ~bits, sizes[:index] + sizes[index + 1 :], used | bits)
                        chances[squares] += fleets
                        total += fleets
            return total

        explain(self._hits, self._sizes, 0)
        for size, places in apart.items():
            chances += weights[size] * np.bincount(np.array(places, int).ravel(), minlength=chances.size)
        return chances

    def _free(self, size: int) -> list[list[int]]:
        return [squares for bits, squares in ships(self._side, size) if not bits & (self._misses | self._hits)]


@cache
def ships(side: int, size: int) -> Placements:
    """Return every place of a ship of this size on an empty board."""
    rows = [[row * side + start + i for i in range(size)] for row in range(side) for start in range(side - size + 1)]
    columns = [[square % side * side + square // side for square in squares] for squares in rows]
    return [(sum(1 << square for square in squares), squares) for squares in rows + columns]


@cache
def ships_through(side: int, size: int, square: int) -> Placements:
    """Return every place of a ship of this size that covers the square."""
    return [(bits, squares) for bits, squares in ships(side, size) if bits >> square & 1]


def first_best(values: Floats) -> int:
    """Return the first index of the largest value, with a tolerance of 1e-9 for rounding errors."""
    return int(np.argmax(values > values.max() - 1e-9))


class Minesweeper(Player):
    """Player that uncovers the square least likely to be a mine, by counting the boards consistent with what it saw."""

    def __init__(self, game: Any) -> None:
        self._rows, self._columns = game.dims
        self._mines = game.num_mines
        self._seen: dict[int, int] = {}
        self._last: int | None = None

    def act(self, observation: int) -> tuple[int, int]:
        """Return the square (row, column) to uncover. The observation counts the mines next to the last square."""
        if self._last is not None:
            self._seen[self._last] = int(observation)
        chances = self._chances()
        chances[list(self._seen)] = 2
        self._last = first_best(-chances)
        return self._last // self._columns, self._last % self._columns

    def replace(self, action: Any) -> None:
        row, column = action
        self._last = int(row) * self._columns + int(column)

    def _around(self, square: int) -> Iterator[int]:
        row, column = divmod(square, self._columns)
        for y, x in product(range(row - 1, row + 2), range(column - 1, column + 2)):
            if 0 <= y < self._rows and 0 <= x < self._columns and (y, x) != (row, column):
                yield y * self._columns + x

    def _chances(self) -> Floats:
        """Return the probability of a mine in each square, float64 (squares,). Values of seen squares are meaningless.

        The squares next to seen squares are processed in order. Boards that leave the same numbers to be explained, and
        have as many mines, are counted together: `boards` maps these numbers and the mines laid to the number of boards
        in total (first) and of those with a mine in each processed square.
        """
        hints = {seen: [square for square in self._around(seen) if square not in self._seen] for seen in self._seen}
        edge = sorted({square for squares in hints.values() for square in squares})
        boards = {(tuple(self._seen.values()), 0): np.eye(1, 1 + len(edge))[0]}
        for index, square in enumerate(edge, 1):
            touched = [square in squares for squares in hints.values()]
            closed = [i for i, squares in enumerate(hints.values()) if squares and squares[-1] == square]
            boards = self._lay(boards, index, touched, closed)
        rest = self._rows * self._columns - len(self._seen) - len(edge)
        total, mines, elsewhere = 0.0, np.zeros(len(edge)), 0.0
        for (_, laid), counts in boards.items():
            if 0 <= self._mines - laid <= rest:
                ways = comb(rest, self._mines - laid)
                total, mines = total + ways * counts[0], mines + ways * counts[1:]
                elsewhere += ways * counts[0] * (self._mines - laid) / max(rest, 1)
        chances = np.full(self._rows * self._columns, elsewhere / max(total, 1))
        chances[edge] = mines / max(total, 1)
        return chances

    def _lay(
        self, boards: dict[tuple[tuple[int, ...], int], Floats], index: int, touched: list[bool], closed: list[int]
    ) -> dict[tuple[tuple[int, ...], int], Floats]:
        """Extend the boards by one square, with and without a mine. Numbers at `closed` must be explained by then."""
        result: dict[tuple[tuple[int, ...], int], Floats] = {}
        for ((numbers, laid), counts), mine in product(boards.items(), (False, True)):
            if mine:
                numbers = tuple(number - touch for number, touch in zip(numbers, touched, strict=True))
                laid, counts = laid + 1, counts.copy()
                counts[index] = counts[0]
            if laid <= self._mines and all(numbers[i] == 0 for i in closed) and min(numbers) >= 0:
                key = (numbers, laid)
                result[key] = result[key] + counts if key in result else counts
        return result


class Labyrinth(Player):
    """Player that follows the right-hand wall, which leads through all of a maze without loops, and needs no memory."""

    _STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # change of row and column, by action: left, right, up, down
    _RIGHT, _LEFT = (2, 3, 1, 0), (3, 2, 0, 1)  # by action: the action to its right and to its left

    def __init__(self, game: Any) -> None:
        pass

    def act(self, observation: NDArray[np.int64]) -> int:
        """Return the action for an observation (10,): 3 x 3 cells around, by rows, and the last action (4: none)."""
        view, last = np.pad(observation[:9].reshape(3, 3), 1, constant_values=1), int(observation[9])
        # The first view may be shifted, but it contains the only start cell, 2.
        row, column = np.argwhere(view == 2)[0] if last == 4 else (2, 2)
        heading = 0 if last == 4 else self._RIGHT[last]
        for _ in range(3):
            down, right = self._STEPS[heading]
            if view[row + down, column + right] != 1:
                break
            heading = self._LEFT[heading]
        return heading


PLAYERS: dict[str, Callable[[Any], Player]] = {
    "autoencode": Autoencode,
    "battleship": Battleship,
    "concentration": Concentration,
    "count_recall": CountRecall,
    "higher_lower": HigherLower,
    "labyrinth_escape": Labyrinth,
    "labyrinth_explore": Labyrinth,
    "minesweeper": Minesweeper,
    "multiarmed_bandit": MultiarmedBandit,
    "noisy_position_only_cartpole": CartPole,
    "noisy_position_only_pendulum": Pendulum,
    "position_only_cartpole": CartPole,
    "position_only_pendulum": Pendulum,
    "repeat_first": RepeatFirst,
    "repeat_previous": RepeatPrevious,
    "velocity_only_cartpole": CartPole,
}
"""Class of each task's player. Its argument is an environment of POPGym, read only for the rules, not for the state."""
