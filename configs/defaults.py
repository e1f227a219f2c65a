"""Every field of an experiment with its default, unit and meaning."""

from ml_collections import ConfigDict


def vae(dataset: str) -> ConfigDict:
    """The categorical VAE of Jang et al. 2017, section 4.2, on one dataset."""
    config = _common(dataset)
    config.task = "vae"
    # elbo; or the multi-sample bound. vimco: of hard samples, with the score_function. iwae: of
    # relaxed ones with gumbel_softmax, of hard ones with straight_through, reinmax and their like.
    # The last two have no KL term.
    config.objective = "elbo"
    # The KL term: analytic, relaxed_log_mass, relaxed_density or sampled (gsm.objectives.vae_loss).
    config.kl = "analytic"
    _linear_maps(config.model)
    config.model.hidden_sizes = ()  # of the encoder, mirrored in the decoder; () is linear
    config.model.prior = "learned"  # or "uniform"
    return config


def sbn(dataset: str) -> ConfigDict:
    """Structured prediction of Jang et al. 2017, section 4.1: the lower half from the upper."""
    config = _common(dataset)
    config.task = "sbn"
    _linear_maps(config.model)
    config.model.num_layers = 2  # of latents, with linear maps between them
    config.temperature.rate = 0.0  # the paper's temperature is 1 throughout
    return config


def semisupervised(dataset: str) -> ConfigDict:
    """Semi-supervised classification of Jang et al. 2017, section 4.3."""
    config = _common(dataset)
    config.task = "semisupervised"
    config.alpha = 1.0  # weight of the classification loss of labelled images
    config.labels = labels = ConfigDict()
    labels.number = 100  # labelled images, as many of each class
    labels.seed = 0  # of their choice
    labels.batch_size = 0  # of them in a step, drawn without replacement; 0: all
    # Of their bound on log p(x, y); they are among the unlabelled as well. NOTE(paper): equation 11
    # has a mean of it, 1; sums over the data set (Kingma et al. 2014) would weigh it 100/50,000.
    labels.weight = 1.0
    # Of what the classifier learns from, not of the generative model; uniform, 0: none.
    config.augmentation = augmentation = ConfigDict()
    augmentation.shift = 0.0  # at most, pixels, in each direction
    augmentation.rotation = 0.0  # at most, degrees
    augmentation.scale = 0.0  # at most, share of the size
    augmentation.shear = 0.0  # at most, pixels of a row for each row
    # Cross-entropy between an unlabelled image's class and that of its augmentation.
    config.consistency = consistency = ConfigDict()
    consistency.weight = 0.0  # 0: none
    consistency.threshold = 0.95  # only images whose class has this probability count
    config.data.binarization = "dynamic"
    config.model.num_latents = 1  # the class
    config.model.style_size = 32  # of the Gaussian z
    config.temperature.rate = 3e-5
    config.temperature.update_every = 2_000
    config.evaluation.valid_samples = 1
    config.evaluation.test_samples = 1
    return config


TASKS = {"vae": vae, "sbn": sbn, "semisupervised": semisupervised}


def _linear_maps(model: ConfigDict) -> None:
    """What maps of pixels and latents without hidden layers add to a model."""
    model.units = "zero_one"  # how maps read the latents, or "plus_minus_one": as 2 z - 1
    model.center_inputs = True  # subtract the mean training image before the first map


def _common(dataset: str) -> ConfigDict:
    """What all tasks share."""
    config = ConfigDict()
    config.estimator = "gumbel_softmax"  # a key of gsm.estimators.ESTIMATORS
    config.num_samples = 0  # m of rloo (0: 4), gumbel_rao, vimco and iwae (0: 10)
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
    model.init_output_bias = True  # start the pixel logits at the mean training image

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adam"  # NOTE(paper): the paper has "sgd" with momentum 0.9
    optimizer.learning_rate = 1e-3
    # Of the learning rate, at the last step, with a line to it; NOTE(paper): no schedule there.
    optimizer.final_share = 1.0
    optimizer.momentum = 0.9  # of sgd
    # Of kernels, times the learning rate, a step, beside the direction (AdamW's); 0: none.
    optimizer.weight_decay = 0.0

    # max(floor, initial * exp(-rate * step)), held for update_every steps.
    config.temperature = temperature = ConfigDict()
    temperature.initial = 1.0
    temperature.rate = 1e-4
    temperature.floor = 0.5
    temperature.update_every = 1_000
    temperature.backward = 1.0  # of the gradient of decoupled_gumbel_softmax

    # min(cap, initial + rate * step), of slope_annealed_st, updated with the temperature.
    config.slope = slope = ConfigDict()
    slope.initial = 1.0
    slope.rate = 8e-5  # 0.04 an epoch of 500 steps
    slope.cap = 2.0

    # The learning signal of score_function, nvil, darn and muprop.
    config.signal = signal = ConfigDict()
    # Subtracted from it: constant, moving_average, or network (of the image, and a moving average).
    signal.baseline = "moving_average"  # nvil has the network whatever is said here
    signal.constant = 0.0  # nats; where a moving average starts
    # Divide by max(1, moving standard deviation); with kl sampled, which the signal then holds.
    signal.normalize = False  # NOTE(paper): "necessary", with its sgd; adam divides by itself
    signal.decay = 0.9  # of the moving averages, per step

    # The control variate of rebar and relax.
    config.control = control = ConfigDict()
    control.learn = True  # eta and temperature by the variance; else the schedule's and this eta
    control.eta = 1.0

    config.learned = learned = ConfigDict()  # networks of baselines and control variates
    learned.hidden_sizes = (100,)
    learned.learning_rate = 1e-3  # Adam's, also of eta and temperature

    config.evaluation = evaluation = ConfigDict()
    evaluation.valid_samples = 100  # m of the bound at each evaluation
    evaluation.test_samples = 1_000  # m of the reported bound; 0: none is measured
    # Test images whose reported bound is also measured at each evaluation, for a learning curve;
    # nothing is chosen by it.
    evaluation.curve_images = 0

    if dataset == "digits":  # 1,197 images: a first look that ends within a minute
        config.num_steps = 5_000
        config.eval_every = 250
        config.log_every = 250
        config.keep = "best"
        data.binarization = "dynamic"
    return config
