from fakehost.attention import attention_function as optimized_attention

__all__ = ["optimized_attention"]
