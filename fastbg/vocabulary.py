"""Words that users write in arguments and options, each list in one place.

Imports nothing, so that the command line can list them without loading PyTorch. The modules that
define their meaning import them from here.
"""

# Of experiments, in the order of the report; fastbg.experiments.EXPERIMENTS has their classes.
EXPERIMENTS = (
    "surroundings",
    "slicing",
    "composites",
    "table1",
    "swap",
    "seam",
    "ring",
    "inward",
    "gram",
    "mosaic",
    "effect",
    "faithfulness",
    "diffusion",
)
EXTRA = (
    "effect",
    "faithfulness",
    "diffusion",
)  # of those, measured only where they are asked for by name
NETWORKS = ("edsr", "rcan", "swinir")  # built in; fastbg.models.registry.BUILT_IN makes them
BACKENDS = ("torch", "cpu", "triton", "cuda")
DTYPES = ("float32", "bfloat16", "float16")  # of networks
PRECISIONS = ("ieee", "tf32", "bf16")  # of float32 products, see fastbg.precision
KERNELS = ("matlab", "pil")  # of bicubic down-sampling
CHANNELS = ("rgb", "y")  # of PSNR and SSIM
NODE_COUNTS = {  # on the path of attributions in experiments, see fastbg.experiments.windows
    "few": "8, as accurate as the published 50 in the shares of the attribution",
    "many": "16, as accurate as the published 50 in each map",
    "published": "50 steps",
}
EFFECT_METRICS = ("psnr", "mse", "change")  # of a window, in causal effect maps and occlusion
METHODS = (
    "riemann_right",
    "riemann_left",
    "riemann_trapezoid",
    "gausslegendre",
    "arc_midpoint",
)  # quadrature rules along a path
METHOD, STEPS = METHODS[0], 50  # as published

# A network on a command line, see fastbg.models.options.
NETWORK = "NAME|FILE[,OPTION=VALUE]"
NETWORK_HELP = (
    f"{', '.join(NETWORKS)}, or a weights file; options that the file does not contain follow it: "
    "FILE,res_scale=0.1,img_range=255,mean=R:G:B,scale=4,pooling=24"
)
