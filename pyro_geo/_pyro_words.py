"""Options that users of Pyro and NumPyro type, and what to type here instead."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["words_for"]

_KERNEL: Mapping[str, str] = {
    "adapt_mass_matrix": "the metric is always adapted; metric='diagonal' or 'dense' "
    "says of which kind it is",
    "adapt_step_size": "the step size is adapted; step_size=0.1 fixes it",
    "dense_mass": "type metric='dense'",
    "full_mass": "type metric='dense', or 'diagonal' for full_mass=False",
    "ignore_jit_warnings": "leave it out, and type compile= at MCMC(HMC(model), ...)",
    "inverse_mass_matrix": "the metric is always adapted; leave it out",
    "jit_compile": "type compile=True or False at MCMC(HMC(model), ..., compile=True)",
    "jit_options": "leave it out, and type compile= at MCMC(HMC(model), ...)",
    "max_plate_nesting": "leave it out, plates are counted",
    "max_stepsize": "step_size=0.1 fixes the step size; leave it out",
    "max_tree_depth": "type max_leapfrog=, 2 ** max_tree_depth - 1 say",
    "min_stepsize": "step_size=0.1 fixes the step size; leave it out",
    "num_steps": "type trajectory_length=, num_steps * step_size say, or max_leapfrog= "
    "for the most steps",
    "skip_jit_warnings": "leave it out, and type compile= at MCMC(HMC(model), ...)",
    "use_multinomial_sampling": "leave it out, no trees are built",
}

_OF_THE_RUN = (
    "chain_batch_size",
    "compile",
    "dtype",
    "initial_params",
    "initial_space",
    "n_jobs",
    "num_chains",
    "num_samples",
    "progress_bar",
    "seed",
    "store",
    "thin",
    "warmup_steps",
)

_MCMC: Mapping[str, str] = {
    "chain_method": "all chains run in one batch; n_jobs= spreads groups of them",
    "chains": "type num_chains=",
    "cores": "all chains run in one batch; n_jobs= spreads groups of them",
    "disable_progbar": "type progress_bar=False",
    "disable_validation": "leave it out, models run without validation",
    "draws": "type num_samples=",
    "full_mass": "it belongs to the kernel: MCMC(HMC(model, metric='dense'), ...)",
    "hook_fn": "type store=folder, and look at a run under way with "
    "pyro_geo.io.store.open_run(folder)",
    "jit_compile": "type compile=True or False",
    "max_tree_depth": "it belongs to the kernel: MCMC(HMC(model, max_leapfrog=1023), "
    "...)",
    "mp_context": "all chains run in one batch; n_jobs= and joblib.parallel_config "
    "spread groups of them",
    "num_warmup": "type warmup_steps=",
    "postprocess_fn": "write pyro.deterministic in the model",
    "progress": "type progress_bar=",
    "random_seed": "type seed=",
    "rng_key": "type seed=",
    "save_params": "type keep=[...], the sites to keep",
    "space": "type initial_space=",
    "statistics": "type store=folder and memory_limit=, which hold many draws",
    "thinning": "type thin=",
    "tune": "type warmup_steps=",
}

_OF_THE_KERNEL = (
    "init_strategy",
    "max_leapfrog",
    "metric",
    "potential_fn",
    "step_size",
    "target_accept_prob",
    "trajectory_length",
    "transforms",
)


def words_for(owner: type, option: str) -> str | None:
    """What to type in place of an option that a constructor does not have.

    Args:
        owner: class of the constructor, a kernel or the runner.
        option: what was typed.

    Returns:
        A few words; None for an option that nobody is used to.

    Example:
        >>> from pyro_geo.infer import HMC, MCMC
        >>> words_for(HMC, "dense_mass"), words_for(MCMC, "disable_progbar")
        ("type metric='dense'", 'type progress_bar=False')
    """
    # by name, so that this module imports none of them
    kinds = {base.__name__ for base in owner.__mro__}
    if "Kernel" in kinds:
        if option in _OF_THE_RUN:
            name = owner.__name__
            return f"it belongs to the run: MCMC({name}(model), ..., {option}=...)"
        return _KERNEL.get(option)
    if "MCMC" in kinds:
        if option in _OF_THE_KERNEL:
            return f"it belongs to the kernel: MCMC(HMC(model, {option}=...), ...)"
        return _MCMC.get(option)
    return None
