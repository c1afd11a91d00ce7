"""Deletion of data from posteriors and optimisers, and audits of what is left.

Modules:
    forgetting: one call that chooses a way to delete, and says why.
    plans: what a deletion would do and cost, and what it has done.
    draws: deletion from draws of a posterior, by a ladder that climbs by itself.
    tails: what a deletion asks of weights, known before anything is run.
    sites: deletion from guides that are normal in unconstrained space.
    conjugate: deletion from posteriors with sufficient statistics.
    points: Newton's method, influence and baselines for point estimates.
    certified_networks: certified deletion by noisy steps, for any network.
    certified_convex: certified deletion by Newton's method, for convex losses.
    training: training on what stays.
    certificates: what a certified deletion promises, and a test of it.
    noise: how much noise hides a deletion.
    memory: the curvature that optimisers have gathered, as matrices.
    treatments: what is done to a memory: reset, shrink, decay, truncate, perturb.
    data_treatments: treatments that need gradients: downdate, refresh, project.
    probes: data that an audit looks at a learner with.
    membership: attacks on what a memory holds.
    gp: deletion from Gaussian processes.
    trajectories: how memories change while training goes on.
    auditing: fidelity and erasure, against counterfactuals.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.unlearning._forget_set import (
        ForgetSet,
        read_forget,
    )
    from pyro_geo.unlearning.auditing import (
        AuditReport,
        audit,
    )
    from pyro_geo.unlearning.certificates import (
        CertificateTest,
        CertifiedDeletion,
        DeletionCertificate,
        check_certificate,
    )
    from pyro_geo.unlearning.certified_convex import (
        certified_newton,
    )
    from pyro_geo.unlearning.certified_networks import (
        certified_finetune,
    )
    from pyro_geo.unlearning.conjugate import (
        NormalInverseGamma,
        conjugate_delete,
    )
    from pyro_geo.unlearning.data_treatments import (
        Downdate,
        ProjectForget,
        Refresh,
    )
    from pyro_geo.unlearning.draws import (
        delete_draws,
    )
    from pyro_geo.unlearning.forgetting import (
        forget,
        plan_forget,
    )
    from pyro_geo.unlearning.gp import (
        GPDeletion,
        gp_delete,
    )
    from pyro_geo.unlearning.membership import (
        AUC,
        auc,
        forget_energy,
        state_attack,
    )
    from pyro_geo.unlearning.memory import (
        memory_of,
    )
    from pyro_geo.unlearning.plans import (
        DeletionPlan,
        Forgotten,
        Option,
    )
    from pyro_geo.unlearning.points import (
        PointDeletion,
        delete_point,
    )
    from pyro_geo.unlearning.probes import (
        Probes,
        State,
    )
    from pyro_geo.unlearning.sites import (
        SiteDeletion,
        delete_sites,
    )
    from pyro_geo.unlearning.tails import (
        Leverage,
        leverage,
        predict_khat,
    )
    from pyro_geo.unlearning.training import (
        train_on,
    )
    from pyro_geo.unlearning.trajectories import (
        Trajectory,
    )
    from pyro_geo.unlearning.treatments import (
        Decay,
        Perturb,
        Reset,
        Shrink,
        Treatment,
        Truncate,
        Untreated,
    )

__all__ = [
    "AUC",
    "AuditReport",
    "CertificateTest",
    "CertifiedDeletion",
    "Decay",
    "DeletionCertificate",
    "DeletionPlan",
    "Downdate",
    "ForgetSet",
    "Forgotten",
    "GPDeletion",
    "Leverage",
    "NormalInverseGamma",
    "Option",
    "Perturb",
    "PointDeletion",
    "Probes",
    "ProjectForget",
    "Refresh",
    "Reset",
    "Shrink",
    "SiteDeletion",
    "State",
    "Trajectory",
    "Treatment",
    "Truncate",
    "Untreated",
    "auc",
    "audit",
    "certified_finetune",
    "certified_newton",
    "check_certificate",
    "conjugate_delete",
    "delete_draws",
    "delete_point",
    "delete_sites",
    "forget",
    "forget_energy",
    "gp_delete",
    "leverage",
    "memory_of",
    "plan_forget",
    "predict_khat",
    "read_forget",
    "state_attack",
    "train_on",
]

__getattr__ = importer(
    globals(),
    {
        "AUC": "pyro_geo.unlearning.membership",
        "AuditReport": "pyro_geo.unlearning.auditing",
        "CertificateTest": "pyro_geo.unlearning.certificates",
        "CertifiedDeletion": "pyro_geo.unlearning.certificates",
        "Decay": "pyro_geo.unlearning.treatments",
        "DeletionCertificate": "pyro_geo.unlearning.certificates",
        "DeletionPlan": "pyro_geo.unlearning.plans",
        "Downdate": "pyro_geo.unlearning.data_treatments",
        "ForgetSet": "pyro_geo.unlearning._forget_set",
        "Forgotten": "pyro_geo.unlearning.plans",
        "GPDeletion": "pyro_geo.unlearning.gp",
        "Leverage": "pyro_geo.unlearning.tails",
        "NormalInverseGamma": "pyro_geo.unlearning.conjugate",
        "Option": "pyro_geo.unlearning.plans",
        "Perturb": "pyro_geo.unlearning.treatments",
        "PointDeletion": "pyro_geo.unlearning.points",
        "Probes": "pyro_geo.unlearning.probes",
        "ProjectForget": "pyro_geo.unlearning.data_treatments",
        "Refresh": "pyro_geo.unlearning.data_treatments",
        "Reset": "pyro_geo.unlearning.treatments",
        "Shrink": "pyro_geo.unlearning.treatments",
        "SiteDeletion": "pyro_geo.unlearning.sites",
        "State": "pyro_geo.unlearning.probes",
        "Trajectory": "pyro_geo.unlearning.trajectories",
        "Treatment": "pyro_geo.unlearning.treatments",
        "Truncate": "pyro_geo.unlearning.treatments",
        "Untreated": "pyro_geo.unlearning.treatments",
        "auc": "pyro_geo.unlearning.membership",
        "audit": "pyro_geo.unlearning.auditing",
        "certified_finetune": "pyro_geo.unlearning.certified_networks",
        "certified_newton": "pyro_geo.unlearning.certified_convex",
        "check_certificate": "pyro_geo.unlearning.certificates",
        "conjugate_delete": "pyro_geo.unlearning.conjugate",
        "delete_draws": "pyro_geo.unlearning.draws",
        "delete_point": "pyro_geo.unlearning.points",
        "delete_sites": "pyro_geo.unlearning.sites",
        "forget": "pyro_geo.unlearning.forgetting",
        "forget_energy": "pyro_geo.unlearning.membership",
        "gp_delete": "pyro_geo.unlearning.gp",
        "leverage": "pyro_geo.unlearning.tails",
        "memory_of": "pyro_geo.unlearning.memory",
        "plan_forget": "pyro_geo.unlearning.forgetting",
        "predict_khat": "pyro_geo.unlearning.tails",
        "read_forget": "pyro_geo.unlearning._forget_set",
        "state_attack": "pyro_geo.unlearning.membership",
        "train_on": "pyro_geo.unlearning.training",
    },
)
