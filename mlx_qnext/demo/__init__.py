"""The small trained model that is embedded."""
