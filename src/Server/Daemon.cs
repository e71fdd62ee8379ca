using System.Net;
using FramePin.Server.Configuration;
using FramePin.Server.Drivers;
using FramePin.Server.LocalCalls;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Services;
using FramePin.Server.Telemetry;
using Grpc.Reflection;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace FramePin.Server;

/// <summary>Builds the daemon and runs it until SIGTERM or SIGINT.</summary>
internal static class Daemon
{
    /// <summary>Exit code when the audit at the end found something.</summary>
    public const int AuditFailed = 3;

    public static async Task<int> RunAsync(DaemonOptions options, CancellationToken cancelled)
    {
        await using var app = Build(options);
        await app.StartAsync(cancelled).ConfigureAwait(false);
        foreach (var address in app.Urls) Console.WriteLine($"framepind listening on {address}");
        Console.WriteLine("framepind ready");
        await app.WaitForShutdownAsync(cancelled).ConfigureAwait(false);
        return Audit(app);
    }

    /// <param name="options">How it was started.</param>
    /// <param name="time">The clock of leases and deadlines; the system's when null.</param>
    /// <param name="replace">Puts other services in the place of the daemon's own; none when null.</param>
    public static WebApplication Build(
        DaemonOptions options, TimeProvider? time = null, Action<IServiceCollection>? replace = null)
    {
        // Configured by its command line. Settings are not looked for in whatever directory it was started from, nor
        // watched for changes there.
        var builder = WebApplication.CreateSlimBuilder(new WebApplicationOptions
        {
            Args = ["--hostBuilder:reloadConfigOnChange=false"],
            ContentRootPath = AppContext.BaseDirectory,
        });
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning).AddFilter("Grpc", LogLevel.Critical);
        builder.WebHost.ConfigureKestrel(kestrel => Listen(kestrel, options));
        var services = builder.Services;
        services.Configure<HostOptions>(host => host.ShutdownTimeout = options.Limits.ShutdownGrace);
        services.AddSingleton(options);
        services.AddSingleton(time ?? TimeProvider.System);
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
        AddTelemetry(services);
        replace?.Invoke(services);
        var app = builder.Build();
        app.Lifetime.ApplicationStopping.Register(() =>
        {
            foreach (var host in app.Services.GetRequiredService<MachineRegistry>().All) host.StopWaiting();
        });
        var keeper = app.Services.GetRequiredService<QuarantineKeeper>();
        var machines = app.Services.GetRequiredService<MachineRegistry>();
        machines.Made = keeper.Watch;
        foreach (var host in machines.All) keeper.Watch(host);
        app.UseMiddleware<StatusDetailsMiddleware>();
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
        return app;
    }

    private static void Listen(KestrelServerOptions kestrel, DaemonOptions options)
    {
        kestrel.AddServerHeader = false;
        if (options.SocketPath is { } path)
        {
            // A socket left over by a daemon that was killed would make the bind fail.
            if (File.Exists(path)) File.Delete(path);
            kestrel.ListenUnixSocket(path, listen => listen.Protocols = HttpProtocols.Http2);
        }

        if (options.TcpPort is { } port)
            kestrel.Listen(IPAddress.Loopback, port, listen => listen.Protocols = HttpProtocols.Http2);
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

    private static void AddTelemetry(IServiceCollection services)
    {
        var telemetry = services.AddOpenTelemetry().ConfigureResource(resource => resource.AddService("framepind"));
        // The exporter retries against nobody when no endpoint is named: leave it out then.
        if (Environment.GetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT") is not { Length: > 0 }) return;
        telemetry
            .WithTracing(tracing => tracing.AddSource(TelemetryNames.Source).AddOtlpExporter())
            .WithMetrics(metrics => metrics.AddMeter(TelemetryNames.Source).AddOtlpExporter());
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
