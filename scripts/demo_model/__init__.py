"""How the demo model is made: speech, model, loss, training, evaluation. Run by ``scripts/train_demo_model.py``."""
