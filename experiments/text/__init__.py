"""One text encoder for tasks of several domains: news, software, sentiment, paraphrases."""
