"""Experts for POPGym's cart-poles and pendulums: a Kalman filter estimates the state, and feedback controls it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmt_rl.envs._popgym_player import Player

Floats = NDArray[np.float64]


class CartPole(Player):
    """Linear feedback on a Kalman filter's estimate of the state, for a cart-pole near its upright position.

    A state is (x, x', angle, angle') in metres, radians and seconds.
    """

    _GAIN = np.array([0.1, 0.3, 5.4, 1.3])  # push to the right when gain @ state is positive
    _SPREAD = 0.05**2 / 3  # variance of each component of the state at the start
    _MODEL_ERROR = 1e-8  # variance added per step for the nonlinearity that the model ignores

    def __init__(self, game: Any) -> None:
        mass, moment = game.total_mass, game.polemass_length
        inertia = game.length * (4 / 3 - game.masspole / mass)
        slope, push = game.gravity / inertia, -1 / (mass * inertia)  # angle'' per angle and per force
        change = np.array([[0, 1, 0, 0], [0, 0, -moment * slope / mass, 0], [0, 0, 0, 1], [0, 0, slope, 0]])
        self._motion = np.eye(4) + game.tau * change
        self._force = game.tau * game.force_mag * np.array([0, (1 - moment * push) / mass, 0, push])
        self._noise = np.square(getattr(game, "noise_sigma", np.full(2, 1e-3)))
        self._velocities = type(game).__name__.startswith("Velocity")
        self._state, self._covariance = np.zeros(4), np.eye(4) * self._SPREAD
        self._right: int | None = None  # the last action; None before the first
        self._sensors = np.eye(4)[[0, 2]]  # in every variant the first observation holds positions

    def act(self, observation: NDArray[np.float32]) -> int:
        """Return the action, 0 (left) or 1 (right), for an observation (2,) of two components of the state."""
        if self._right is not None:
            self._predict(self._right)
        seen = self._sensors @ self._covariance
        gain = np.linalg.solve(seen @ self._sensors.T + np.diag(self._noise), seen).T
        self._state = self._state + gain @ (observation - self._sensors @ self._state)
        self._covariance = self._covariance - gain @ seen
        self._right = int(self._GAIN @ self._state > 0)
        return self._right

    def replace(self, action: Any) -> None:
        self._right = int(action)

    def _predict(self, right: int) -> None:
        self._state = self._motion @ self._state + (2 * right - 1) * self._force
        self._covariance = self._motion @ self._covariance @ self._motion.T + self._MODEL_ERROR * np.eye(4)
        if self._velocities:
            self._sensors = np.eye(4)[[1, 3]]


class Pendulum(Player):
    """Swing-up by energy, then linear feedback, on an extended Kalman filter's estimate of angle and velocity.

    The energy is that of the pendulum without torque, in rad^2/s^2, and is 0 at rest upright. A torque is a fraction of
    the largest torque.
    """

    _PUMP = 0.25  # torque per unit of energy lacking
    _HOLD = np.array([6.0, 1.5])  # torque per angle and per velocity
    _CATCH = 5.0  # feedback takes over when it asks for less than this torque
    _SPREAD = 1 / 3  # variance of the velocity at the start
    _MODEL_ERROR = 1e-6  # variance added per step for the nonlinearity that the model ignores

    def __init__(self, game: Any) -> None:
        self._game = game
        self._fall, self._push = 1.5 * game.g / game.l, 3 / (game.m * game.l**2)  # acceleration per sin(angle), per N m
        self._noise = np.diag(np.square(getattr(game, "noise_sigma", np.full(2, 1e-3))))
        self._state: Floats | None = None
        self._torque = 0.0  # the last action
        self._covariance = np.zeros((2, 2))

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the torque (1,) for the cosine and sine (2,) of the angle."""
        if self._state is None:
            state = np.array([np.arctan2(observation[1], observation[0]), 0.0])
            self._covariance = np.diag([self._noise[0, 0], self._SPREAD])
        else:
            before, speed = self._state
            predicted = self._predict(before, speed, self._torque)
            state = self._correct(predicted, observation)
        self._state = state
        self._torque = self._control(*state)
        return np.array([self._torque], np.float32)

    def replace(self, action: Any) -> None:
        self._torque = float(action[0])

    def _correct(self, state: Floats, observation: NDArray[np.float32]) -> Floats:
        cosine, sine = np.cos(state[0]), np.sin(state[0])
        sensors = np.array([[-sine, 0.0], [cosine, 0.0]])
        seen = sensors @ self._covariance
        gain = np.linalg.solve(seen @ sensors.T + self._noise, seen).T
        self._covariance = self._covariance - gain @ seen
        corrected: Floats = state + gain @ (observation - np.array([cosine, sine]))
        return corrected

    def _control(self, angle: float, velocity: float) -> float:
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        hold = -self._HOLD @ np.array([angle, velocity])
        if abs(hold) < self._CATCH:
            return float(np.clip(hold, -1, 1))
        energy = velocity**2 / 2 + self._fall * (np.cos(angle) - 1)
        return float(np.clip(-self._PUMP * energy, -1, 1) * (1 if velocity >= 0 else -1))

    def _predict(self, angle: float, velocity: float, torque: float) -> Floats:
        game = self._game
        change = self._fall * np.sin(angle) + self._push * game.max_torque * torque
        velocity = np.clip(velocity + game.dt * change, -game.max_speed, game.max_speed)
        slope = game.dt * self._fall * np.cos(angle)
        motion = np.array([[1 + game.dt * slope, game.dt], [slope, 1.0]])
        self._covariance = motion @ self._covariance @ motion.T + self._MODEL_ERROR * np.eye(2)
        return np.array([angle + game.dt * velocity, velocity])
