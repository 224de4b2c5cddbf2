"""The packaged specs: one YAML file a model, read through `ulzoo.load_spec(name)`."""
