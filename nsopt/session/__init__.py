"""Work on one subject: settings, storage, device, searches, trials. Both wings stand on it."""
