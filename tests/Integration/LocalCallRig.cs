using System.Net.Sockets;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.V1;
using FramePin.V1.Local;
using Google.Protobuf;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>A daemon in the test's process that the test stops.</summary>
internal sealed class StoppableDaemon(DaemonLimits limits, string? path = null) : IAsyncDisposable
{
    private Microsoft.AspNetCore.Builder.WebApplication? _app;

    public string Path { get; } = path
        ?? System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");

    public string Endpoint => $"unix:{Path}";

    public string Calls => Path + ".calls";

    public Task StartAsync()
    {
        _app = Daemon.Build(new DaemonOptions { SocketPath = Path, Limits = limits });
        return _app.StartAsync();
    }

    public async Task StopAsync()
    {
        if (_app is null) return;
        await _app.StopAsync();
        await _app.DisposeAsync();
        _app = null;
    }

    public async ValueTask DisposeAsync() => await StopAsync();
}

/// <summary>A driver that answers when the test says so.</summary>
internal sealed class SilentDriver : IAsyncDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly AsyncDuplexStreamingCall<DriverReply, DriverCall> _stream;

    private SilentDriver(AsyncDuplexStreamingCall<DriverReply, DriverCall> stream) => _stream = stream;

    public IoctlRequest Request { get; private set; } = null!;

    /// <summary>The stream's end.</summary>
    public Task Ended => NextAsync();

    public static async Task<SilentDriver> StartAsync(FramePinClient client)
    {
        var driver = new SilentDriver(client.Drivers.ServeDriver());
        var node = $"node{Guid.NewGuid():N}"[..20];
        var register = new RegisterDriver { Machine = "machines/default", Node = node, Driver = "silent" };
        await driver._stream.RequestStream.WriteAsync(new DriverReply { Register = register });
        await driver.NextAsync();
        var opening = client.Drivers.OpenDriverFileAsync(
            new OpenDriverFileRequest { Driver = $"machines/default/drivers/{node}" }).ResponseAsync;
        await driver.AnswerAsync(await driver.NextAsync(), Errno.None);
        driver.Request = new IoctlRequest { File = (await opening).File, Command = "WAIT" };
        return driver;
    }

    public async Task<DriverCall> NextAsync() =>
        await _stream.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience)
            ? _stream.ResponseStream.Current
            : throw new InvalidOperationException("the daemon ended the stream");

    public Task AnswerAsync(DriverCall call, Errno errno, byte[]? argument = null) => _stream.RequestStream.WriteAsync(
        new DriverReply
        {
            Answer = new DriverAnswer
            {
                Call = call.Call,
                Errno = (uint)errno,
                Argument = ByteString.CopyFrom(argument ?? [])
            }
        });

    public ValueTask DisposeAsync()
    {
        _stream.Dispose();
        return ValueTask.CompletedTask;
    }
}

/// <summary>A client that sends what it likes.</summary>
internal sealed class RawCaller : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly PacketReader _reader = new(1 << 20);

    public RawCaller(string path)
    {
        _socket.ReceiveTimeout = (int)Patience.TotalMilliseconds;
        _socket.Connect(new UnixDomainSocketEndPoint(path));
    }

    /// <summary>The packet that begins a call.</summary>
    public static byte[] Head(string method) =>
        Packet(PacketKind.Call, new LocalCallHeader { Method = method }.ToByteArray());

    public static byte[] Packet(PacketKind kind, byte[] payload) =>
        [.. BitConverter.GetBytes(payload.Length), (byte)kind, .. payload];

    /// <summary>Bytes that have come and are not read.</summary>
    public int Available => _socket.Available;

    public void Send(byte[] bytes) => _socket.Send(bytes);

    public bool TrySend(byte[] bytes)
    {
        try
        {
            _socket.Send(bytes);
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }

    /// <summary>Sends bytes unless the other side reads none for a second.</summary>
    public bool TrySendNow(byte[] bytes)
    {
        _socket.SendTimeout = 1000;
        return TrySend(bytes);
    }

    /// <summary>A unary call; the code it ended with.</summary>
    public int Ask(string method, IMessage request)
    {
        Send([.. Head(method), .. Packet(PacketKind.Message, request.ToByteArray())]);
        return Status().Code;
    }

    /// <summary>Reads the next message.</summary>
    public T Message<T>(MessageParser<T> parser)
        where T : IMessage<T>
    {
        PacketKind kind;
        while (!_reader.TryTake(out kind)) Receive();
        Assert.Equal(PacketKind.Message, kind);
        return parser.ParseFrom(_reader.PayloadAsReadOnlySequence());
    }

    /// <summary>Reads until a call ends.</summary>
    public LocalStatus Status()
    {
        while (true)
        {
            while (_reader.TryTake(out var kind))
                if (kind == PacketKind.Status) return LocalStatus.Parser.ParseFrom(_reader.PayloadAsReadOnlySequence());
            Receive();
        }
    }

    /// <summary>The daemon has closed it: nothing more comes.</summary>
    public bool IsClosed() => _socket.Receive(_reader.Free.Span) == 0;

    public void Dispose() => _socket.Dispose();

    private void Receive()
    {
        var count = _socket.Receive(_reader.Free.Span);
        Assert.NotEqual(0, count);
        _reader.Received(count);
    }
}
