"""Every field of a VAE experiment with its default, unit and meaning."""

from ml_collections import ConfigDict


def vae(dataset: str) -> ConfigDict:
    """The categorical VAE of Jang et al. 2017, section 4.2, on one dataset."""
    config = ConfigDict()
    config.task = "vae"
    config.estimator = "gumbel_softmax"  # a key of gsm.estimators.ESTIMATORS
    # The KL term: analytic, relaxed_log_mass, relaxed_density or sampled (gsm.objectives.vae_loss).
    config.kl = "analytic"
    config.seed = 0  # of initialisation, batches and noise; the data splits do not depend on it

    config.num_steps = 100_000
    config.eval_every = 5_000  # steps between two evaluations on validation, each with a checkpoint
    config.log_every = 1_000  # steps in one jitted scan; a row of metrics.jsonl each
    config.batch_size = 100
    # Which parameters the final evaluation reads: "last", or "best" of the validation bounds.
    config.keep = "last"

    config.data = data = ConfigDict()
    data.name = dataset  # mnist, fashion_mnist, kmnist, binarized_mnist, digits
    data.dir = ""  # holds one folder per dataset; empty: $GSM_DATA_DIR, the TFDS cache, the network
    data.binarization = "fixed"  # of grey images: fixed, dynamic, threshold, none

    config.model = model = ConfigDict()
    model.num_latents = 20
    model.num_classes = 10  # of each latent; 2 makes Bernoulli units with one logit
    model.hidden_sizes = ()  # of the encoder, mirrored in the decoder; () is linear
    model.prior = "learned"  # or "uniform"
    model.center_inputs = True  # subtract the mean training image before the encoder
    model.init_output_bias = True  # start the pixel logits at the mean training image

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adam"  # NOTE(paper): the paper has "sgd" with momentum 0.9
    optimizer.learning_rate = 1e-3
    optimizer.momentum = 0.9  # of sgd

    # max(floor, initial * exp(-rate * step)), held for update_every steps.
    config.temperature = temperature = ConfigDict()
    temperature.initial = 1.0
    temperature.rate = 1e-4
    temperature.floor = 0.5
    temperature.update_every = 1_000

    # min(cap, initial + rate * step), of slope_annealed_st, updated with the temperature.
    config.slope = slope = ConfigDict()
    slope.initial = 1.0
    slope.rate = 8e-5  # 0.04 an epoch of 500 steps
    slope.cap = 2.0

    config.baseline = 0.0  # nats, subtracted from the signal of score_function and muprop
    config.eta = 1.0  # weight of rebar's control variate

    config.evaluation = evaluation = ConfigDict()
    evaluation.valid_samples = 100  # m of the bound at each evaluation
    evaluation.test_samples = 1_000  # m of the reported bound

    if dataset == "digits":  # 1,197 images: a first look that ends within a minute
        config.num_steps = 5_000
        config.eval_every = 250
        config.log_every = 250
        config.keep = "best"
        data.binarization = "dynamic"
    return config
