"""What the chaos commands share: how a run looks while it goes on."""
