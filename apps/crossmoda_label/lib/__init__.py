"""Parts of the MONAI Label app: datastore, models, training, strategies and scores."""
