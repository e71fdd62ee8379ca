namespace FramePin.Server.Native;

/// <summary>The daemon cannot start as it was told to. The message is one line for its user.</summary>
internal sealed class StartException(string message, Exception? cause = null) : IOException(message, cause);
