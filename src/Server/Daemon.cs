using System.Runtime.InteropServices;
using FramePin.Server.Configuration;
using FramePin.Server.Drivers;
using FramePin.Server.LocalCalls;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Native;
using FramePin.Server.Services;
using FramePin.Server.Telemetry;
using FramePin.V1.Local;
using Grpc.Reflection;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;

namespace FramePin.Server;

/// <summary>Builds the daemon and runs it until SIGTERM, SIGINT or SIGHUP.</summary>
internal static class Daemon
{
    /// <summary>Exit code when it cannot start as it was told to.</summary>
    public const int WrongUsage = 2;

    /// <summary>Exit code when the audit at the end found something.</summary>
    public const int AuditFailed = 3;

    public static async Task<int> RunAsync(DaemonOptions options, CancellationToken cancelled)
    {
        await using var app = Build(options);
        // The end of a terminal is an end in order, too.
        using var hangup = PosixSignalRegistration.Create(PosixSignal.SIGHUP, context =>
        {
            context.Cancel = true;
            app.Lifetime.StopApplication();
        });
        await app.StartAsync(cancelled).ConfigureAwait(false);
        foreach (var address in app.Services.GetRequiredService<DaemonSockets>().Addresses)
            Tell(Console.Out, $"framepind listening on {address}");
        Tell(Console.Out, "framepind ready");
        await app.WaitForShutdownAsync(cancelled).ConfigureAwait(false);
        return Audit(app);
    }

    /// <summary>
    /// Writes a line for people. What a terminal would obey is shown as a question mark, and a stream that takes
    /// nothing, such as a full disk, is no reason to end.
    /// </summary>
    internal static void Tell(TextWriter writer, string text)
    {
        try
        {
            writer.WriteLine(Names.Shown(text));
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // The log says the same, where there is one.
        }
    }

    /// <param name="options">How it was started.</param>
    /// <param name="time">The clock of leases and deadlines; the system's when null.</param>
    /// <param name="replace">Puts other services in the place of the daemon's own; none when null.</param>
    public static WebApplication Build(
        DaemonOptions options, TimeProvider? time = null, Action<IServiceCollection>? replace = null)
    {
        var sockets = DaemonSockets.Bind(
            options.SocketPath, options.SocketPath is { } path ? LocalSocket.PathFor(path) : null,
            options.AttachSocketPath, options.TcpPort);
        try
        {
            return Build(options, sockets, time, replace);
        }
        catch
        {
            sockets.Dispose();
            throw;
        }
    }

    private static WebApplication Build(
        DaemonOptions options, DaemonSockets sockets, TimeProvider? time, Action<IServiceCollection>? replace)
    {
        // Empty: configured by its command line alone. No variable of the environment and no file opens a listener.
        var builder = WebApplication.CreateEmptyBuilder(
            new WebApplicationOptions { ContentRootPath = AppContext.BaseDirectory });
        builder.Configuration.AddInMemoryCollection(TelemetryVariables.All());
        builder.Logging.AddSimpleConsole().SetMinimumLevel(LogLevel.Information)
            .AddFilter("Microsoft", LogLevel.Warning).AddFilter("Grpc", LogLevel.Critical);
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel => Listen(kestrel, sockets));
        var services = builder.Services;
        // Owned by the container, which makes it at once.
        services.AddSingleton(_ => sockets);
        services.Configure<SocketTransportOptions>(transport => transport.CreateBoundListenSocket = sockets.Of);
        services.AddRoutingCore();
        AddParts(services, options, time ?? TimeProvider.System);
        TelemetryExport.Add(services);
        replace?.Invoke(services);
        var app = builder.Build();
        _ = app.Services.GetRequiredService<DaemonSockets>();
        TelemetryExport.Start(app.Services);
        app.Lifetime.ApplicationStopping.Register(() =>
        {
            foreach (var host in app.Services.GetRequiredService<MachineRegistry>().All) host.StopWaiting();
        });
        var keeper = app.Services.GetRequiredService<QuarantineKeeper>();
        var machines = app.Services.GetRequiredService<MachineRegistry>();
        machines.Made = keeper.Watch;
        foreach (var host in machines.All) keeper.Watch(host);
        app.UseRouting();
        app.UseMiddleware<StreamEndMiddleware>();
        app.UseMiddleware<StatusDetailsMiddleware>();
        Map(app);
        return app;
    }

    private static void AddParts(IServiceCollection services, DaemonOptions options, TimeProvider time)
    {
        services.Configure<HostOptions>(host => host.ShutdownTimeout = options.Limits.ShutdownGrace);
        services.AddSingleton(options);
        services.AddSingleton(time);
        services.AddMetrics();
        services.AddSingleton<ServerTelemetry>();
        services.AddSingleton<PinTracing>(
            static provider => provider.GetRequiredService<ServerTelemetry>().TracePin);
        services.AddSingleton<PinTransactions>();
        services.AddSingleton<IAccessPolicy, OpenAccess>();
        services.AddSingleton<MachineRegistry>();
        services.AddSingleton<DriverRegistry>();
        services.AddSingleton<AttachTickets>();
        services.AddSingleton<Attachments>();
        services.AddSingleton<QuarantineKeeper>();
        services.AddSingleton<AttachServer>();
        services.AddHostedService(provider => provider.GetRequiredService<AttachServer>());
        services.AddSingleton<LocalMethods>();
        services.AddHostedService<LocalCallServer>();
        services.AddGrpc(grpc =>
        {
            grpc.Interceptors.Add<ServerInterceptor>();
            grpc.MaxReceiveMessageSize = options.Limits.MessageBytesMax;
            grpc.MaxSendMessageSize = null;
            grpc.EnableDetailedErrors = false;
        });
        services.AddSingleton<ServerInterceptor>();
        AddReflection(services);
        services.AddGrpcHealthChecks().AddCheck(
            "framepind", () => Microsoft.Extensions.Diagnostics.HealthChecks.HealthCheckResult.Healthy());
    }

    private static void Map(WebApplication app)
    {
        app.MapGrpcService<MachineService>();
        app.MapGrpcService<AddressSpaceService>();
        app.MapGrpcService<PinningService>();
        app.MapGrpcService<FileService>();
        app.MapGrpcService<DeviceService>();
        app.MapGrpcService<MemoryService>();
        app.MapGrpcService<LeaseService>();
        app.MapGrpcService<DriverService>();
        app.MapGrpcService<WatchService>();
        app.MapGrpcService<FaultService>();
        app.MapGrpcHealthChecksService();
        app.MapGrpcReflectionService();
    }

    private static void Listen(KestrelServerOptions kestrel, DaemonSockets sockets)
    {
        kestrel.AddServerHeader = false;
        foreach (var endpoint in sockets.Http2)
            kestrel.Listen(endpoint, listen => listen.Protocols = HttpProtocols.Http2);
    }

    /// <summary>
    /// Reflection of what is served, and of the details that refusals carry. The messages of the calls do not name
    /// these, so that a client without protos could not read them otherwise.
    /// </summary>
    private static void AddReflection(IServiceCollection services)
    {
        Google.Protobuf.Reflection.ServiceDescriptor[] served =
        [
            V1.MachineService.Descriptor, V1.AddressSpaceService.Descriptor, V1.PinningService.Descriptor,
            V1.FileService.Descriptor, V1.DeviceService.Descriptor, V1.MemoryService.Descriptor,
            V1.LeaseService.Descriptor, V1.DriverService.Descriptor, V1.WatchService.Descriptor,
            V1.FaultService.Descriptor, Grpc.Health.V1.Health.Descriptor,
            Grpc.Reflection.V1Alpha.ServerReflection.Descriptor, Grpc.Reflection.V1.ServerReflection.Descriptor,
        ];
        var names = served.Select(service => service.FullName).ToArray();
        var symbols = SymbolRegistry.FromFiles(
            served.Select(service => service.File).Append(Google.Rpc.ErrorDetailsReflection.Descriptor));
        services.AddSingleton(new ReflectionServiceImpl(names, symbols));
        services.AddSingleton(new ReflectionV1ServiceImpl(names, symbols));
        services.AddGrpcReflection();
    }

    /// <summary>The last look before the process ends: every machine's books must balance.</summary>
    private static int Audit(WebApplication app)
    {
        var findings = 0;
        foreach (var host in app.Services.GetRequiredService<MachineRegistry>().All)
            foreach (var finding in host.Machine.Audit())
            {
                findings++;
                app.Logger.AuditFinding(host.Id, finding);
            }

        return findings == 0 ? 0 : AuditFailed;
    }
}
