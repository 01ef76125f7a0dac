"""The PyTorch process-group backend: ``torch.distributed.init_process_group("collectives")``."""
