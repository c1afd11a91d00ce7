"""Every exception and warning of the library.

:class:`PyroGeoError` is the root of the exceptions and :class:`PyroGeoWarning` that
of the warnings. An exception also inherits the built-in that a caller would expect,
so that ``except ValueError`` catches a bad option. A mistake in the call raises before
any sampling; numerical trouble inside a run never raises, it flags the draw.

Messages have four parts, put together by :func:`explain`: what is wrong, where, what
was found against what was expected, and what to do next.
"""

__all__ = [
    "AnchorAliasError",
    "AnchorMismatchError",
    "AnchorNotConvergedWarning",
    "BallSpecError",
    "BetaRangeError",
    "BoundsError",
    "CheckpointError",
    "ConfigurationError",
    "ConvergenceWarning",
    "DegenerateCovarianceError",
    "DegenerateEnsembleWarning",
    "DiscountError",
    "DiscreteLatentError",
    "DiscreteSiteError",
    "DivergenceWarning",
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
    "MissingGradientLogError",
    "ModelError",
    "NoFeasibleSampleError",
    "NonFiniteDataError",
    "NonFiniteError",
    "NonFiniteLossError",
    "NonFiniteMeasurementWarning",
    "NonFiniteStateError",
    "NonStationaryWarning",
    "NotPositiveDefiniteError",
    "NotProperlyWeightedError",
    "ObjectiveShapeError",
    "OfflinePlanningError",
    "ParameterCoverageWarning",
    "PrecisionWarning",
    "PriorDependsOnDataError",
    "PriorError",
    "PriorSupportError",
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
    "UnreliableWeightsWarning",
    "UnsupportedError",
    "UnsupportedModelError",
    "UnsupportedOptimizerError",
    "WorkerError",
    "explain",
    "require",
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


def require(good: bool, name: str, found: object, expected: object) -> None:
    """Refuse an option that is out of range.

    Args:
        good: whether it is in range.
        name: of the argument.
        found: its value.
        expected: what it should be.

    Raises:
        ConfigurationError: it is not.

    Example:
        >>> require(3 > 0, "num_chains", 3, "at least 1")
    """
    if not good:
        raise ConfigurationError(
            explain(
                "option out of range",
                where=f"argument {name}",
                found=found,
                expected=expected,
                todo="Pass such a value or leave it out.",
            )
        )


class PyroGeoError(Exception):
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


class PyroGeoWarning(UserWarning):
    """Root of the library's warnings."""


class DivergenceWarning(PyroGeoWarning):
    """Trajectories left the region where their numbers can be trusted."""


class ConvergenceWarning(PyroGeoWarning):
    """A run ended before it reached what it was meant to reach."""


class FallbackWarning(PyroGeoWarning):
    """A slower or plainer way was taken, for the reason given."""


# Shared by several methods
class ConfigurationError(PyroGeoError, ValueError):
    """An option is outside its range or two options contradict each other."""


class NonFiniteError(PyroGeoError, ValueError):
    """An input holds NaN or an infinity."""


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


# Bounded-measure priors and tracking
class BallSpecError(PyroGeoError, ValueError):
    """A ball's radius or order describes no truncation."""


class UnboundedFieldError(PyroGeoError, ValueError):
    """The requested field has unbounded support where a bounded one is needed."""


class EmptyDropletError(ModelError):
    """Prior and likelihood supports do not meet: the posterior is undefined."""


class ImproperFloorError(UnsupportedError):
    """A relative floor is no density in the data, so there is no evidence."""


class DegenerateCovarianceError(PyroGeoError, RuntimeError):
    """A covariance cannot be factorised at some batch index and step."""


class NonFiniteMeasurementWarning(PyroGeoWarning):
    """A measurement is NaN or infinite and was treated as missing."""


class TrackLostWarning(DivergenceWarning):
    """A track has called its measurements outliers for many steps."""


# Cross-entropy search
class DiscreteLatentError(UnsupportedError):
    """A latent site is discrete where a continuous one is needed."""


class ElitesError(PyroGeoError, ValueError):
    """The number of elites is not between one and the population."""


class BoundsError(PyroGeoError, ValueError):
    """Bounds are crossed, or a start or scale does not fit them."""


class ObjectiveShapeError(ShapeError):
    """An objective does not return one value per candidate."""


class NoFeasibleSampleError(InitializationError):
    """No candidate of the first population has a finite objective."""


class EliteCollapseWarning(ConvergenceWarning):
    """So few elites that the search distribution must shrink."""


# Merging of posteriors
class LayoutMismatchError(ShapeError):
    """Two parameter sets differ in names or shapes."""


class MissingCurvatureError(PyroGeoError, ValueError):
    """A posterior carries no curvature and no metric was given."""


class SampleSizeError(PyroGeoError, ValueError):
    """Sample sizes are missing or do not fit the posteriors."""


class SaturatedMetricWarning(PyroGeoWarning):
    """Metrics differ so much in size that one decides the merge."""


class SubspaceResidualWarning(PyroGeoWarning):
    """The subspace leaves out more than it keeps."""


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


# Temporal-difference processes and control
class NonFiniteDataError(PyroGeoError, ValueError):
    """A row of the data holds NaN or an infinity."""


class DiscountError(PyroGeoError, ValueError):
    """A discount is outside [0, 1], or is 1 without termination."""


class EpisodeError(PyroGeoError, ValueError):
    """Transitions do not follow each other within an episode."""


class PriorSupportError(ModelError):
    """A prior draw is outside what the planner can simulate."""


class OfflinePlanningError(PyroGeoError, RuntimeError):
    """Too many offline planning jobs failed."""


class ParameterCoverageWarning(ConvergenceWarning):
    """Offline draws do not cover the parameters met online."""


# Hierarchical Gaussian filtering
class HGFShapeError(ShapeError):
    """Inputs, subjects or levels of a filter do not fit together."""


class HGFDomainError(PyroGeoError, ValueError):
    """A value is outside the domain of the filter."""


class HGFNegativePrecisionError(PyroGeoError, ArithmeticError):
    """An update made a precision negative."""


class HGFGraphError(ModelError):
    """A network of filters has a cycle or a repeated edge."""


# Unlearning
class LeverageError(PyroGeoError, ValueError):
    """A deletion would remove more information than there is."""


class ForgetSetError(PyroGeoError, ValueError):
    """The set to forget is empty, repeated, out of range or everything."""


class MissingGradientLogError(PyroGeoError, LookupError):
    """The training run kept no gradients to take back."""


class ReferenceMismatchError(PyroGeoError, ValueError):
    """A reference differs in shape or treatment from what it is held against."""


class NonFiniteStateError(PyroGeoError, ValueError):
    """A buffer of the state holds NaN or an infinity."""


class UnreliableWeightsWarning(ConvergenceWarning):
    """Importance weights have too heavy a tail to be trusted."""


class NonStationaryWarning(ConvergenceWarning):
    """The trained point is not stationary, which the update assumes."""


# Selective projection decay
class SparseGradientError(UnsupportedError):
    """A gradient is sparse or complex."""


class UnsupportedOptimizerError(UnsupportedError):
    """The optimiser cannot be wrapped, because it calls its closure repeatedly."""


class AnchorMismatchError(ShapeError):
    """Anchors and parameters differ in count, names or shapes."""


class AnchorAliasError(PyroGeoError, ValueError):
    """An anchor shares storage with its parameter and would never act."""
