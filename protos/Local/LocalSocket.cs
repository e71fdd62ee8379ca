namespace FramePin.V1.Local;

/// <summary>Where local calls go.</summary>
public static class LocalSocket
{
    /// <summary>Path of the Unix socket for local calls, beside that of gRPC.</summary>
    public static string PathFor(string grpc) => grpc + ".calls";
}
