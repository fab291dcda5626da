"""The registry of reports: a line for each experiment."""

from fastbg.experiments.experiment import Experiment
from fastbg.reports.composites import CompositesReport
from fastbg.reports.diffusion import DiffusionReport
from fastbg.reports.effect import EffectReport
from fastbg.reports.faithfulness import FaithfulnessReport
from fastbg.reports.gram import GramReport
from fastbg.reports.inward import InwardReport
from fastbg.reports.mosaic import MosaicReport
from fastbg.reports.ring import RingReport
from fastbg.reports.seam import SeamReport
from fastbg.reports.section import ExperimentReport
from fastbg.reports.slicing import SlicingReport
from fastbg.reports.surroundings import SurroundingsReport
from fastbg.reports.swap import SwapReport
from fastbg.reports.table1 import Table1Report

REPORTS: dict[str, type[ExperimentReport]] = {
    "surroundings": SurroundingsReport,
    "slicing": SlicingReport,
    "composites": CompositesReport,
    "table1": Table1Report,
    "swap": SwapReport,
    "seam": SeamReport,
    "ring": RingReport,
    "inward": InwardReport,
    "gram": GramReport,
    "mosaic": MosaicReport,
    "effect": EffectReport,
    "faithfulness": FaithfulnessReport,
    "diffusion": DiffusionReport,
}


def report_of(experiment: Experiment) -> ExperimentReport:
    """The report that turns the experiment's records into tables, verdicts and figures."""
    return REPORTS[experiment.name](experiment)
