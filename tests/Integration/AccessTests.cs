using System.Collections.Concurrent;
using FramePin.Client;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Tests.Integration.Wire;
using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// Every call finds its machine through one door: none answers anything about a machine before the policy was asked.
/// </summary>
public sealed class AccessTests : IAsyncLifetime
{
    private const string Machine = "machines/default";

    private readonly string _socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
    private readonly DenyAll _policy = new();
    private WebApplication? _app;
    private FramePinClient _client = null!;

    public static TheoryData<string> Calls =>
        [.. DescriptorTests.Methods.Select(method => method.FullName).Order(StringComparer.Ordinal)];

    public async ValueTask InitializeAsync()
    {
        _app = Daemon.Build(
            new DaemonOptions { SocketPath = _socket, AttachSocketPath = _socket + ".attach" },
            replace: services => services.AddSingleton<IAccessPolicy>(_policy));
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{_socket}");
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
    }

    [Theory]
    [MemberData(nameof(Calls))]
    public async Task A_call_without_the_right_is_refused_before_anything_is_looked_up(string call)
    {
        var method = DescriptorTests.Methods.Single(method => method.FullName == call);
        var request = (IMessage)Activator.CreateInstance(method.InputType.ClrType)!;
        Fill(request, method.Service.Name);

        // A list of what a caller may see is empty for one that may see nothing.
        if (method.Name == "ListMachines") Assert.Empty(await SendAsync(method, request));
        else Assert.Equal(
            StatusCode.PermissionDenied,
            (await Assert.ThrowsAsync<RpcException>(() => SendAsync(method, request))).StatusCode);

        var (machine, right) = Assert.Single(_policy.Asked.Distinct());
        Assert.Equal("default", machine);
        var isLook = (method.Name.StartsWith("Get", StringComparison.Ordinal) && method.Name != "GetVaddrFrames")
            || method.Name.StartsWith("List", StringComparison.Ordinal) || method.Name == "AuditMachine";
        Assert.Equal(isLook, right == Right.Read);
    }

    /// <summary>Sends the request as bytes, and returns the bytes of the first answer.</summary>
    private async Task<byte[]> SendAsync(MethodDescriptor descriptor, IMessage request)
    {
        var type = (descriptor.IsClientStreaming, descriptor.IsServerStreaming) switch
        {
            (false, false) => MethodType.Unary,
            (true, false) => MethodType.ClientStreaming,
            (false, true) => MethodType.ServerStreaming,
            _ => MethodType.DuplexStreaming,
        };
        var bytes = Marshallers.Create<byte[]>(static value => value, static value => value);
        var method = new Method<byte[], byte[]>(type, descriptor.Service.FullName, descriptor.Name, bytes, bytes);
        var invoker = _client.Invoker;
        var options = new CallOptions(deadline: DateTime.UtcNow.AddSeconds(20));
        using var unary = type == MethodType.Unary
            ? invoker.AsyncUnaryCall(method, null, options, request.ToByteArray())
            : null;
        if (unary is not null) return await unary;
        if (type == MethodType.ServerStreaming)
        {
            using var reading = invoker.AsyncServerStreamingCall(method, null, options, request.ToByteArray());
            return await FirstAsync(reading.ResponseStream);
        }

        if (type == MethodType.ClientStreaming)
        {
            using var writing = invoker.AsyncClientStreamingCall(method, null, options);
            await writing.RequestStream.WriteAsync(request.ToByteArray());
            await writing.RequestStream.CompleteAsync();
            return await writing;
        }

        using var both = invoker.AsyncDuplexStreamingCall(method, null, options);
        await both.RequestStream.WriteAsync(request.ToByteArray());
        return await FirstAsync(both.ResponseStream);
    }

    private static async Task<byte[]> FirstAsync(IAsyncStreamReader<byte[]> stream)
    {
        Assert.True(await stream.MoveNext(default));
        return stream.Current;
    }

    /// <summary>Names that are well formed and name nothing, so that a look-up would answer NOT_FOUND.</summary>
    private static void Fill(IMessage message, string service)
    {
        foreach (var field in message.Descriptor.Fields.InDeclarationOrder())
        {
            if (NameOf(field, service) is { } name)
            {
                field.Accessor.SetValue(message, name);
            }
            else if (field.FieldType == FieldType.Message && field.Name is "open" or "register" or "target")
            {
                var part = (IMessage)Activator.CreateInstance(field.MessageType.ClrType)!;
                Fill(part, service);
                field.Accessor.SetValue(message, part);
            }
        }
    }

    private static string? NameOf(FieldDescriptor field, string service) => (field.Name, service) switch
    {
        ("parent" or "machine", _) => Machine,
        ("machine_id", _) => "default",
        ("name", "MachineService") => Machine,
        ("name", "AddressSpaceService") or ("address_space", not "WatchService") => $"{Machine}/addressSpaces/none",
        ("name", "MemoryService") => $"{Machine}/addressSpaces/none",
        ("name", "FileService") => $"{Machine}/files/none",
        ("name", "DeviceService") => $"{Machine}/devices/none",
        ("name", "PinningService") or ("frame_vector", "PinningService" or "MemoryService" or "WatchService")
            when field.FieldType == FieldType.String => $"{Machine}/frameVectors/99",
        ("name" or "lease", "LeaseService") => $"{Machine}/leases/none",
        ("driver", "DriverService") when field.ContainingType.Name == "OpenDriverFileRequest" =>
            $"{Machine}/drivers/none",
        ("file", "DriverService") => $"{Machine}/driverFiles/99",
        ("device", "FaultService") => $"{Machine}/devices/none",
        ("attachment", "MemoryService") => $"{Machine}/attachments/none",
        ("node", _) => "none",
        _ => null,
    };

    private sealed class DenyAll : IAccessPolicy
    {
        public ConcurrentQueue<(string Machine, Right Right)> Asked { get; } = new();

        public void Check(ServerCallContext caller, string machine, Right right)
        {
            Asked.Enqueue((machine, right));
            throw new RpcException(new Status(StatusCode.PermissionDenied, "this test denies all"));
        }
    }
}
