"""Whole programs under measurement, each in a process of its own: detq's and its peers'."""

from detq.programs.measure import PEERS, ProgramSpeed, measure_programs

__all__ = ["PEERS", "ProgramSpeed", "measure_programs"]
