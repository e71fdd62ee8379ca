using System.Runtime.CompilerServices;
using FramePin.Client.Local;
using FramePin.V1;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace FramePin.Client;

/// <summary>A connection to a daemon: its machines, and the raw stubs of every service.</summary>
/// <remarks>
/// Any thread. The client owns its channel. Objects that it made are not to be used after it is disposed. The stubs
/// (<see cref="Machines"/>, <see cref="Pinning"/> and so on) throw <see cref="RpcException"/>; the methods of this
/// library throw <see cref="FramePinException"/>.
/// </remarks>
/// <example>
/// <code>
/// using var client = FramePinClient.Connect("http://127.0.0.1:7461");
/// var space = await client.DefaultMachine.CreateAddressSpaceAsync();
/// var address = await space.MmapAsync(length: 64 &lt;&lt; 10);
/// await using var pin = await space.PinAsync(address, pages: 16, write: true);
/// </code>
/// </example>
public sealed class FramePinClient : IDisposable
{
    /// <summary>Name of the ActivitySource of client spans.</summary>
    public const string ActivitySourceName = ClientInterceptor.SourceName;

    private readonly GrpcChannel _channel;
    private readonly LocalCallInvoker? _local;

    /// <summary>Makes a client. It connects at its first call.</summary>
    /// <param name="options">The settings; <see cref="FramePinClientOptions.DefaultEndpoint"/> with defaults when null.
    /// </param>
    /// <exception cref="ArgumentException">The endpoint is none, or a setting does not go with it.</exception>
    public FramePinClient(FramePinClientOptions? options = null)
    {
        options ??= new FramePinClientOptions();
        _channel = ChannelFactory.Create(options);
        var remote = _channel.CreateCallInvoker();
        if (ChannelFactory.LocalPath(options) is { } path) _local = new LocalCallInvoker(remote, path);
        TimeProvider = options.TimeProvider;
        Logger = (options.LoggerFactory ?? NullLoggerFactory.Instance).CreateLogger("FramePin.Client");
        Invoker = ((CallInvoker?)_local ?? remote)
            .Intercept(new ClientInterceptor(options.DefaultDeadline, options.TimeProvider))
            .Intercept([.. options.Interceptors]);
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

    /// <summary>Invokes calls: for the standard services (health, reflection) and for stubs of one's own.</summary>
    public CallInvoker Invoker { get; }

    /// <summary>Raw stub of the machines.</summary>
    public MachineService.MachineServiceClient Machines { get; }

    /// <summary>Raw stub of the address spaces and their memory calls.</summary>
    public AddressSpaceService.AddressSpaceServiceClient AddressSpaces { get; }

    /// <summary>Raw stub of the frame helper.</summary>
    public PinningService.PinningServiceClient Pinning { get; }

    /// <summary>Raw stub of the memory files.</summary>
    public FileService.FileServiceClient Files { get; }

    /// <summary>Raw stub of the devices.</summary>
    public DeviceService.DeviceServiceClient Devices { get; }

    /// <summary>Raw stub of the bytes of memory, and of attachments.</summary>
    public MemoryService.MemoryServiceClient Memory { get; }

    /// <summary>Raw stub of the leases.</summary>
    public LeaseService.LeaseServiceClient Leases { get; }

    /// <summary>Raw stub of the drivers and their open files.</summary>
    public DriverService.DriverServiceClient Drivers { get; }

    /// <summary>Raw stub of the watches.</summary>
    public WatchService.WatchServiceClient Watches { get; }

    /// <summary>Raw stub of the fault handlers.</summary>
    public FaultService.FaultServiceClient Faults { get; }

    /// <summary>The machine that exists unless the daemon is configured otherwise. Makes no call.</summary>
    public FramePinMachine DefaultMachine => new(this, MachineName.Default);

    /// <summary>The clock of the options.</summary>
    internal TimeProvider TimeProvider { get; }

    /// <summary>The log of the library's own objects.</summary>
    internal ILogger Logger { get; }

    /// <summary>Makes a client for an endpoint. It connects at its first call.</summary>
    /// <param name="endpoint">"unix:/path/of/socket", "http://host:port" or "https://host:port".</param>
    /// <param name="configure">Changes further settings; null for none.</param>
    /// <exception cref="ArgumentException">The endpoint is none, or a setting does not go with it.</exception>
    public static FramePinClient Connect(string endpoint, Action<FramePinClientOptions>? configure = null)
    {
        var options = new FramePinClientOptions { Endpoint = endpoint };
        configure?.Invoke(options);
        return new FramePinClient(options);
    }

    /// <summary>A machine by its name. Makes no call, and so does not see whether the machine exists.</summary>
    /// <param name="name">Its name.</param>
    public FramePinMachine GetMachine(MachineName name) => new(this, name);

    /// <summary>Makes a machine, which lives until it is deleted.</summary>
    /// <param name="spec">Its kernel profile, memory and switches; the daemon's defaults when null.</param>
    /// <param name="id">Last segment of its name; the daemon counts when null.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">The id is taken, the specification is refused, or machines_max is reached.
    /// </exception>
    public async Task<FramePinMachine> CreateMachineAsync(
        MachineSpec? spec = null, string? id = null, CancellationToken cancellationToken = default)
    {
        var request = new CreateMachineRequest
        {
            MachineId = id ?? "",
            Spec = spec,
            RequestId = FramePinCalls.NewRequestId()
        };
        var machine = await Machines.CreateMachineAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new FramePinMachine(this, MachineName.Parse(machine.Name));
    }

    /// <summary>Describes every machine of the daemon, a page of the list a call.</summary>
    /// <param name="cancellationToken">Gives the listing up.</param>
    /// <exception cref="FramePinException">The daemon cannot be reached.</exception>
    public async IAsyncEnumerable<Machine> ListMachinesAsync(
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        var request = new ListMachinesRequest();
        do
        {
            var page = await Machines.ListMachinesAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            foreach (var machine in page.Machines) yield return machine;
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
    }

    /// <summary>Closes the connection. Calls that are under way end with a refusal.</summary>
    public void Dispose()
    {
        _local?.Dispose();
        _channel.Dispose();
    }
}
