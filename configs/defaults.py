"""Fields that experiments share, with default, unit and meaning. Those of a task stand with it.

``--config=FILE --help`` prints the comments on the fields: each stands behind its field or above.
"""

from ml_collections import ConfigDict


def common(task: str) -> ConfigDict:
    """Fields of every experiment.

    Args:
      task: module of ``experiments.tasks``, or any importable module (docs/extending.md).
    """
    config = ConfigDict()
    config.task = task  # module of experiments.tasks, or any importable module
    config.estimator = "gumbel_softmax"  # a key of gsm.ESTIMATORS; --list prints them
    config.num_samples = 0  # averaged by rloo, arms and gumbel_rao; 0: the estimator's default
    config.num_estimates = 1  # independent estimates for each example, averaged; with any estimator
    config.seed = 0  # of initialisation, batches and noise; the data splits do not depend on it

    config.num_steps = 100_000  # training steps, each an update by one minibatch
    config.eval_every = 5_000  # steps between two evaluations on validation, each with a checkpoint
    config.log_every = 1_000  # steps in one jitted scan; a row of metrics.jsonl each
    config.batch_size = 100  # examples in a minibatch, drawn with replacement
    # The validation metric that chooses between checkpoints (keep) and between points of a sweep.
    config.select = "nll"
    config.keep = "last"  # parameters that are tested: those of the "last" step, or the "best"

    # Devices over which the work is divided.
    config.mesh = mesh = ConfigDict()
    mesh.data = 1  # of each minibatch and of the held-out examples; 0: all devices

    config.optimizer = optimizer = ConfigDict()  # of the model's parameters
    optimizer.name = "adam"  # adam, radam or sgd; NOTE(paper): the paper has sgd, momentum 0.9
    optimizer.learning_rate = 1e-3  # at the first step
    # Share of the learning rate that is left at the last step, after a linear decay; NOTE(paper):
    # no schedule there.
    optimizer.final_share = 1.0
    optimizer.momentum = 0.9  # of sgd
    # Decoupled decay of kernels (AdamW), times the learning rate, per step; 0: none.
    optimizer.weight_decay = 0.0

    # The temperature of relaxed estimators. A schedule is a function of gsm.schedules; it reads the
    # fields that its parameters name.
    config.temperature = temperature = ConfigDict()
    temperature.schedule = "exponential"  # max(floor, initial * exp(-rate * step))
    temperature.initial = 1.0  # at step 0
    temperature.rate = 1e-4  # of its decay, per step; 0: constant
    temperature.floor = 0.5  # lowest value
    temperature.update_every = 1_000  # steps for which temperature and slope are held
    temperature.backward = 1.0  # temperature of the gradient of decoupled_gumbel_softmax, reinmax

    config.slope = slope = ConfigDict()  # slope of slope_annealed_st, updated with the temperature
    slope.schedule = "linear"  # min(cap, initial + rate * step)
    slope.initial = 1.0  # at step 0
    slope.rate = 8e-5  # rise per step: 0.04 an epoch of 500 steps
    slope.cap = 2.0  # highest value

    # The learning signal of score_function, nvil, darn and muprop.
    config.signal = signal = ConfigDict()
    # What is subtracted from it: "constant", "moving_average", or "network" (a network of the
    # input plus a moving average); nvil always has the network.
    signal.baseline = "moving_average"
    signal.constant = 0.0  # the constant baseline, or where a moving average starts; nats
    # Divide it by max(1, moving standard deviation). On a VAE with kl=sampled only, where the
    # signal holds the KL term too. NOTE(paper): "necessary", with its sgd; adam divides by itself.
    signal.normalize = False
    signal.decay = 0.9  # decay of the moving averages, per step

    # The control variate of rebar and relax.
    config.control = control = ConfigDict()
    control.learn = True  # whether eta and the temperature learn to lower the variance
    control.eta = 1.0  # weight of f in the control variate; its initial value where it is learned

    config.learned = learned = ConfigDict()  # the networks of baselines and control variates
    learned.hidden_sizes = (100,)  # widths of their hidden layers
    learned.learning_rate = 1e-3  # of Adam, for these networks, eta and temperature
    return config


def on_images(task: str, dataset: str) -> ConfigDict:
    """Fields of an experiment on a dataset of images, scored by a multi-sample bound."""
    config = common(task)

    config.data = data = ConfigDict()  # the dataset
    data.name = dataset  # mnist, fashion_mnist, kmnist, binarized_mnist, digits
    # Folder that holds one folder per dataset; empty: $GSM_DATA_DIR, the TFDS cache, the network.
    data.dir = ""
    data.binarization = "fixed"  # of grey images: fixed, dynamic, threshold or none

    config.model = model = ConfigDict()  # sizes and forms of the networks
    model.num_latents = 20  # categorical variables of a layer
    model.num_classes = 10  # of each latent; 2 makes Bernoulli units with one logit
    model.init_output_bias = True  # whether pixel logits start at the mean training image

    config.evaluation = evaluation = ConfigDict()  # the multi-sample bound on held-out images
    evaluation.valid_samples = 100  # samples m of the bound at each evaluation
    evaluation.test_samples = 1_000  # samples m of the reported bound; 0: the test set is not read
    # Test images whose bound is also measured at each evaluation, for a learning curve; nothing is
    # chosen by it.
    evaluation.curve_images = 0

    if dataset == "digits":  # 1,197 images: a first look that ends within a minute
        config.num_steps = 5_000
        config.eval_every = 250
        config.log_every = 250
        config.keep = "best"
        data.binarization = "dynamic"
    return config


def linear_maps(model: ConfigDict) -> None:
    """Fields of models whose first and last maps read pixels and latents directly."""
    model.units = "zero_one"  # how maps read the latents: "zero_one", or "plus_minus_one" (2 z - 1)
    model.center_inputs = True  # whether the first map sees images less their training mean
