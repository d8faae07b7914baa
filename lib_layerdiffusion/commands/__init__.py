"""The subcommands of `layerdiffusion`, a module for each group; heavy imports wait until a command runs."""
