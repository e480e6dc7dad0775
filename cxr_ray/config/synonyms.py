"""Names that people of PyTorch, timm, Lightning and ultralytics give to our settings; errors suggest ours."""

SETTINGS = {
    "data.shards": "data data_dir data_path data_root dataset dataset_path root shard store shards",
    "data.image_size": "imgsz img_size img size input_size resolution crop_size train_crop_size image",
    "data.limit": "fraction subset max_samples limit_train_batches",
    "data.labels": "classes label targets",
    "data.split.folds": "fold k_folds kfold kfolds n_folds num_folds n_splits",
    "data.split.val": "val val_split val_size val_fraction valid_size validation_split",
    "data.split.test": "test test_split test_size test_fraction",
    "model.name": "arch architecture backbone model_name net network encoder",
    "model.weights": "pretrained checkpoint initial_checkpoint init_weights weight pretrain",
    "model.dropout": "drop drop_rate dropout_rate",
    "model.freeze_epochs": "freeze freeze_backbone frozen_epochs",
    "loss.name": "loss criterion loss_fn objective",
    "loss.pos_weight_power": "pos_weight class_weight class_weights",
    "loss.label_smoothing": "smoothing",
    "optim.name": "opt optim optimizer optimiser",
    "optim.lr": "learning_rate lr0 base_lr max_lr learningrate",
    "optim.weight_decay": "wd l2 weightdecay decay",
    "optim.schedule": "sched scheduler lr_scheduler lr_scheduler_type cos_lr lr_schedule",
    "optim.warmup_epochs": "warmup warmup_steps warmup_ratio lr_warmup_epochs",
    "optim.clip_norm": "clip clip_grad clip_grad_norm gradient_clip_val max_grad_norm grad_clip",
    "optim.ema": "model_ema model_ema_decay ema_decay",
    "train.epochs": "epoch num_epochs n_epochs max_epochs num_train_epochs",
    "train.batch_size": "batch bs batchsize train_batch_size per_device_train_batch_size",
    "train.micro_batch": "accumulate accum_iter grad_accum_steps gradient_accumulation_steps accumulate_grad_batches",
    "train.gpu": "device cuda accelerator use_gpu no_cuda",
    "train.workers": "num_workers n_workers j nproc_per_node world_size devices num_gpus gpus nprocs",
    "train.precision": "amp fp16 bf16 half mixed_precision amp_dtype dtype use_amp",
    "train.patience": "early_stopping early_stopping_patience early_stop",
    "train.compile": "torchcompile torch_compile",
    "train.sync_batch_norm": "sync_bn sync_batchnorm",
    "train.monitor": "metric eval_metric metric_for_best_model",
    "augment.mixup": "mixup_alpha",
    "augment.erase": "reprob random_erase erasing",
    "augment.flip": "hflip fliplr horizontal_flip",
    "report.thresholds": "threshold conf",
    "report.trackers": "logger loggers report_to tracker",
    "output": "out output_dir out_dir save_dir project log_dir logdir default_root_dir",
    "name": "experiment exp_name run_name experiment_name",
    "seed": "random_state manual_seed random_seed",
    "tune.trials": "n_trials num_trials num_samples",
}
"""Setting -> other names of it."""
BY_NAME = {name: setting for setting, names in SETTINGS.items() for name in names.split()}
NOTES = {
    "num_workers": " It is the number of processes that train; images need no loader processes",
    "j": " It is the number of processes that train; images need no loader processes",
}
"""Names that mean something else in a DataLoader."""


def meant_setting(name: str) -> str | None:
    """The dotted setting that `name`, a key or a dotted name of another framework, probably means, or None."""
    return BY_NAME.get(name.rpartition(".")[2].lower().replace("-", "_"))
