using System.Net.Sockets;
using FramePin.Client.Local;
using FramePin.V1;
using FramePin.V1.Local;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;

namespace FramePin.Client;

/// <summary>A connection to a daemon and its services.</summary>
/// <remarks>Any thread. Owns its channel.</remarks>
public sealed class FramePinClient : IDisposable
{
    /// <summary>Name of the ActivitySource of client spans.</summary>
    public const string ActivitySourceName = ClientInterceptor.SourceName;

    private readonly GrpcChannel _channel;

    private readonly LocalCallInvoker? _local;

    private FramePinClient(GrpcChannel channel, string? localPath, TimeSpan deadline, TimeProvider time)
    {
        _channel = channel;
        var remote = channel.CreateCallInvoker();
        if (localPath is not null) _local = new LocalCallInvoker(remote, localPath);
        Invoker = ((CallInvoker?)_local ?? remote).Intercept(new ClientInterceptor(deadline, time));
        Machines = new MachineService.MachineServiceClient(Invoker);
        AddressSpaces = new AddressSpaceService.AddressSpaceServiceClient(Invoker);
        Pinning = new PinningService.PinningServiceClient(Invoker);
        Files = new FileService.FileServiceClient(Invoker);
        Devices = new DeviceService.DeviceServiceClient(Invoker);
        Memory = new MemoryService.MemoryServiceClient(Invoker);
        Leases = new LeaseService.LeaseServiceClient(Invoker);
        Drivers = new DriverService.DriverServiceClient(Invoker);
        Watches = new WatchService.WatchServiceClient(Invoker);
        Faults = new FaultService.FaultServiceClient(Invoker);
    }

    /// <summary>For the standard services (health, reflection) and stubs of one's own.</summary>
    public CallInvoker Invoker { get; }

    public MachineService.MachineServiceClient Machines { get; }

    public AddressSpaceService.AddressSpaceServiceClient AddressSpaces { get; }

    public PinningService.PinningServiceClient Pinning { get; }

    public FileService.FileServiceClient Files { get; }

    public DeviceService.DeviceServiceClient Devices { get; }

    public MemoryService.MemoryServiceClient Memory { get; }

    public LeaseService.LeaseServiceClient Leases { get; }

    public DriverService.DriverServiceClient Drivers { get; }

    public WatchService.WatchServiceClient Watches { get; }

    public FaultService.FaultServiceClient Faults { get; }

    /// <summary>
    /// Connects lazily to <paramref name="endpoint"/>: "unix:/path/of/socket", or "http://127.0.0.1:7461".
    /// </summary>
    /// <param name="endpoint">Where the daemon listens.</param>
    /// <param name="deadline">For calls that set none; 30 seconds when null.</param>
    /// <param name="time">The clock that deadlines count from.</param>
    /// <param name="isLocal"> Takes calls on a frame's way past HTTP/2 where <paramref name="endpoint"/> is a Unix
    /// socket whose daemon offers it (framepin/v1/local.proto); nothing else changes by that.
    /// </param>
    public static FramePinClient Connect(
        string endpoint, TimeSpan? deadline = null, TimeProvider? time = null, bool isLocal = true)
    {
        const string unix = "unix:";
        var handler = new SocketsHttpHandler { ActivityHeadersPropagator = null,
            EnableMultipleHttp2Connections = true };
        var address = endpoint;
        string? localPath = null;
        if (endpoint.StartsWith(unix, StringComparison.Ordinal))
        {
            var path = endpoint[unix.Length..];
            address = "http://localhost";
            if (isLocal) localPath = LocalSocket.PathFor(path);
            handler.ConnectCallback = async (_, cancelled) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                try
                {
                    await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancelled).ConfigureAwait(false);
                    return new NetworkStream(socket, ownsSocket: true);
                }
                catch
                {
                    socket.Dispose();
                    throw;
                }
            };
        }

        var channel = GrpcChannel.ForAddress(address, new GrpcChannelOptions
        {
            HttpHandler = handler,
            DisposeHttpClient = true,
            MaxReceiveMessageSize = 64 << 20,
        });
        return new FramePinClient(
            channel, localPath, deadline ?? TimeSpan.FromSeconds(30), time ?? TimeProvider.System);
    }

    public void Dispose()
    {
        _local?.Dispose();
        _channel.Dispose();
    }
}
