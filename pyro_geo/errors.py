"""Every exception and warning of the library.

:class:`PyroGeoError` is the root of the exceptions and :class:`PyroGeoWarning` that
of the warnings. An exception also inherits the built-in that a caller would expect,
so that ``except ValueError`` catches a bad option. A mistake in the call raises before
any sampling; numerical trouble inside a run never raises, it flags the draw.

Messages have four parts: what is wrong, where, what was found against what was
expected, and what to do next. Every class takes them as its arguments.
"""

__all__ = [
    "AnchorAliasError",
    "AnchorMismatchError",
    "AnchorNotConvergedWarning",
    "AveragedStatisticsWarning",
    "BallSpecError",
    "BetaRangeError",
    "BoundsError",
    "CheckpointError",
    "ConfigurationError",
    "ConvergenceWarning",
    "CovariateError",
    "DegenerateCovarianceWarning",
    "DegenerateEnsembleWarning",
    "DiscountError",
    "DiscreteSiteError",
    "DivergenceWarning",
    "EigengapWarning",
    "EliteCollapseWarning",
    "ElitesError",
    "EmptyDropletError",
    "EmptyEnsembleError",
    "EnergyLedgerWarning",
    "EpisodeError",
    "FallbackWarning",
    "ForgetSetError",
    "HGFDomainError",
    "HGFGraphError",
    "HGFNegativePrecisionError",
    "HGFShapeError",
    "ImproperFloorError",
    "InitializationError",
    "LayoutMismatchError",
    "LeverageError",
    "LossRangeError",
    "MissingCurvatureError",
    "MissingExtraError",
    "MissingGradientLogError",
    "ModelError",
    "ModesNotJoinedWarning",
    "NoFeasibleSampleError",
    "NonFiniteDataError",
    "NonFiniteLossError",
    "NonFiniteMeasurementWarning",
    "NonFiniteParameterError",
    "NonFiniteStateError",
    "NonStationaryWarning",
    "NotPositiveDefiniteError",
    "NotProperlyWeightedError",
    "ObjectiveShapeError",
    "OfflinePlanningError",
    "OpposedDecayWarning",
    "ParameterCoverageWarning",
    "PrecisionWarning",
    "PriorDependsOnDataError",
    "PriorError",
    "PriorSupportError",
    "PyroGeoDeprecationWarning",
    "PyroGeoError",
    "PyroGeoWarning",
    "ReferenceMismatchError",
    "SampleSizeError",
    "SaturatedMetricWarning",
    "ShapeError",
    "SparseGradientError",
    "SubspaceResidualWarning",
    "TrackLostWarning",
    "UnboundedFieldError",
    "UnboundedMinimumWarning",
    "UncertifiedError",
    "UnreliableWeightsError",
    "UnreliableWeightsWarning",
    "UnsupportedError",
    "UnsupportedModelError",
    "UnsupportedOptimizerError",
    "WorkerError",
    "explain",
]


def explain(what: str, where: str, found: object, expected: object, todo: str) -> str:
    """Build the message of an exception or a warning.

    Args:
        what: what is wrong, without a full stop.
        where: the site, chain or step it concerns; empty when it concerns the call.
        found: what was found.
        expected: what was expected instead.
        todo: what to do next, one sentence or more.

    Returns:
        The message, one line.

    Example:
        >>> print(
        ...     explain(
        ...         "Negative friction",
        ...         "option 'friction'",
        ...         -1.0,
        ...         "at least 0",
        ...         "Pass a friction of zero or more.",
        ...     )
        ... )
        Negative friction (option 'friction'): found -1.0, expected at least 0. Pass a
        friction of zero or more.
    """
    place = f" ({where})" if where else ""
    return f"{what}{place}: found {found}, expected {expected}. {todo}"


class _Explained(BaseException):
    """What exceptions and warnings share: a message in four parts.

    Args:
        what: what is wrong; alone it is the whole message.
        where: the argument, site, chain or step it concerns, if there is one.
        found: what was found.
        expected: what was expected instead.
        todo: what to do next, one sentence or more.
    """

    def __init__(
        self,
        what: str = "",
        where: str = "",
        found: object = None,
        expected: object = None,
        todo: str = "",
    ) -> None:
        # pickling hands the finished message back as `what`
        super().__init__(explain(what, where, found, expected, todo) if todo else what)


class PyroGeoError(_Explained, Exception):
    """Root of the library's exceptions."""


class ModelError(PyroGeoError, ValueError):
    """The model or its data are not what a method needs."""


class ShapeError(PyroGeoError, ValueError):
    """Shapes do not fit together."""


class InitializationError(PyroGeoError, RuntimeError):
    """No usable starting point was found."""


class UnsupportedError(PyroGeoError, NotImplementedError):
    """The request is meaningful, but not offered."""


class CheckpointError(PyroGeoError, OSError):
    """Stored draws or states cannot be written, read or continued."""


class WorkerError(PyroGeoError, RuntimeError):
    """Worker processes are lost faster than they finish tasks."""


class MissingExtraError(PyroGeoError, ImportError):
    """A package of an extra that was not installed is needed."""


class PyroGeoWarning(_Explained, UserWarning):
    """Root of the library's warnings."""


class PyroGeoDeprecationWarning(PyroGeoWarning, FutureWarning):
    """A name or a form of call goes in the next minor release."""


class DivergenceWarning(PyroGeoWarning):
    """Trajectories left the region where their numbers can be trusted."""


class ConvergenceWarning(PyroGeoWarning):
    """A run ended before it reached what it was meant to reach."""


class FallbackWarning(PyroGeoWarning):
    """A slower or plainer way was taken, for the reason given."""


# Shared by several methods
class ConfigurationError(PyroGeoError, ValueError):
    """An option is outside its range or two options contradict each other."""


class NotPositiveDefiniteError(PyroGeoError, RuntimeError):
    """A matrix stays not positive definite after the allowed jitter."""


# Dissipative sampling of loss minima
class UnsupportedModelError(UnsupportedError):
    """The model has sites or operations that a batched target cannot have."""


class NonFiniteLossError(InitializationError):
    """The loss at an anchor is NaN or infinite."""


class AnchorNotConvergedWarning(ConvergenceWarning):
    """An anchor still has a loss that training would lower."""


class UnboundedMinimumWarning(ConvergenceWarning):
    """The loss keeps falling while the parameters grow: no minimum exists."""


class DegenerateEnsembleWarning(ConvergenceWarning):
    """All draws came to rest at the anchor: the minimum is isolated."""


class EnergyLedgerWarning(DivergenceWarning):
    """Energy and friction work of a trajectory do not balance."""


# Search and modes
class ObjectiveShapeError(ShapeError):
    """An objective does not return one value per candidate."""


class BoundsError(PyroGeoError, ValueError):
    """Bounds cross, or a search does not start inside them."""


class ElitesError(PyroGeoError, ValueError):
    """A population is smaller than its elites, or has none."""


class NoFeasibleSampleError(PyroGeoError, RuntimeError):
    """No candidate of the first population has a finite cost."""


class EliteCollapseWarning(ConvergenceWarning):
    """One elite alone: the spread shrinks by the old share at every step."""


class ModesNotJoinedWarning(ConvergenceWarning):
    """Chains that started in different modes never met, or too seldom."""


# Selective projection decay
class AnchorMismatchError(ShapeError):
    """An anchor is missing, or does not have the shape of its parameter."""


class AnchorAliasError(PyroGeoError, ValueError):
    """An anchor is the memory of its own parameter, and would move with it."""


class SparseGradientError(UnsupportedError):
    """A gradient is sparse."""


class UnsupportedOptimizerError(UnsupportedError):
    """The optimiser evaluates the loss by itself, or takes sparse gradients alone."""


class OpposedDecayWarning(PyroGeoWarning):
    """Weight decay pulls to zero what is anchored elsewhere."""


# Merging of posteriors
class LayoutMismatchError(ShapeError):
    """Two parameter sets differ in names or shapes."""


class MissingCurvatureError(PyroGeoError, ValueError):
    """A posterior carries no curvature and no metric was given."""


class NonFiniteParameterError(PyroGeoError, ValueError):
    """A parameter, or a moment of a posterior, is NaN or infinite."""


class SampleSizeError(PyroGeoError, ValueError):
    """Sample sizes are missing or do not fit the posteriors."""


class SaturatedMetricWarning(PyroGeoWarning):
    """The metric of one task is nothing beside that of another."""


class SubspaceResidualWarning(PyroGeoWarning):
    """A subspace leaves out more than merging inside it costs."""


class AveragedStatisticsWarning(PyroGeoWarning):
    """Running statistics of batch normalisation were averaged."""


# Gibbs posteriors and certificates
class DiscreteSiteError(UnsupportedError):
    """A discrete latent site has no place in a Gibbs posterior."""


class LossRangeError(PyroGeoError, ValueError):
    """A loss leaves the range that its certificate assumes."""


class EmptyEnsembleError(PyroGeoError, RuntimeError):
    """Every particle was lost to a non-finite loss."""


class PriorError(ModelError):
    """The prior is improper, unnormalised or holds a factor."""


class NotProperlyWeightedError(UnsupportedError):
    """The run's weights do not support the asked finite-sample claim."""


class BetaRangeError(PyroGeoError, ValueError):
    """A temperature is outside the range where the bound holds."""


class PriorDependsOnDataError(PyroGeoError, ValueError):
    """Prior and certificate share data."""


class PrecisionWarning(PyroGeoWarning):
    """The dtype is too coarse for the weights asked for."""


# Bounded measures and trackers
class BallSpecError(PyroGeoError, ValueError):
    """A ball is given twice, not at all, or out of the range of its separation."""


class UnboundedFieldError(PyroGeoError, ValueError):
    """An order of the field action that cuts no tail leaves no bounded measure."""


class EmptyDropletError(PyroGeoError, ValueError):
    """Two bounded supports have no point in common, so no posterior exists."""


class ImproperFloorError(UnsupportedError):
    """An evidence was asked for that a relative floor has made improper."""


class DegenerateCovarianceWarning(DivergenceWarning):
    """A covariance stopped being positive definite, and its track began again."""


class NonFiniteMeasurementWarning(PyroGeoWarning):
    """Measurements that are infinite were taken as missing."""


class TrackLostWarning(ConvergenceWarning):
    """A track went many steps without a report that it believes."""


# Hierarchical Gaussian filters
class HGFShapeError(ShapeError):
    """Inputs and parameters of a filter do not have shapes that go together."""


class HGFDomainError(PyroGeoError, ValueError):
    """An input or a parameter of a filter is outside its range."""


class HGFNegativePrecisionError(PyroGeoError, ArithmeticError):
    """An update that may fail has left a belief without a positive precision."""


class HGFGraphError(ModelError):
    """The states of a network have a cycle, an edge twice, or no observed node."""


class CovariateError(ModelError):
    """A formula cannot be read, or a covariate of a subject is missing."""


# Values of states and control
class NonFiniteDataError(PyroGeoError, ValueError):
    """A transition holds a NaN or an infinity."""


class DiscountError(PyroGeoError, ValueError):
    """A discount is outside [0, 1], or 1 where nothing ends."""


class EpisodeError(PyroGeoError, ValueError):
    """The steps of an episode do not follow each other."""


class PriorSupportError(PyroGeoError, ValueError):
    """A posterior has no mass where the draws of the prior are."""


class OfflinePlanningError(PyroGeoError, RuntimeError):
    """Too few draws of the dynamics could be solved."""


class ParameterCoverageWarning(ConvergenceWarning):
    """The posterior has moved to where few solved draws are."""


# Unlearning
class ReferenceMismatchError(PyroGeoError, ValueError):
    """A reference differs in shape or treatment from what it is held against."""


class ForgetSetError(PyroGeoError, ValueError):
    """What to forget is empty, is all there is, or is not in the data."""


class LeverageError(PyroGeoError, RuntimeError):
    """Removing the data would remove more information than there is."""


class MissingGradientLogError(PyroGeoError, RuntimeError):
    """What a memory has added up was not written down, so it cannot be taken out."""


class EigengapWarning(PyroGeoWarning):
    """Leading directions are compared where the next eigenvalue is as large."""


class NonFiniteStateError(PyroGeoError, ValueError):
    """A buffer of an optimiser is NaN or infinite."""


class UncertifiedError(PyroGeoError, RuntimeError):
    """What a certificate assumes does not hold, so that none is given."""


class NonStationaryWarning(ConvergenceWarning):
    """Parameters are not at a minimum, which the deletion supposes."""


class UnreliableWeightsError(PyroGeoError, RuntimeError):
    """Importance weights have too heavy a tail, and nothing else was allowed."""


class UnreliableWeightsWarning(ConvergenceWarning):
    """Importance weights have too heavy a tail to trust averages."""
