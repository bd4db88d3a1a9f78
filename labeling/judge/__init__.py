"""The AI judge: any OpenAI-compatible endpoint labels comparisons, and no answer is paid for twice."""
