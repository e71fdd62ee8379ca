using FramePin.Client;
using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Drivers;

/// <summary>An application's open file of a driver's node: ioctl, mmap, close.</summary>
/// <remarks>Any thread. Closing it releases the file; so does the end of its lease.</remarks>
public sealed class DriverHandle : IAsyncDisposable
{
    private readonly FramePinClient _client;

    /// <summary>A file that is open already, by its name: "machines/{m}/driverFiles/{number}".</summary>
    public DriverHandle(FramePinClient client, string file)
    {
        _client = client;
        File = file;
    }

    /// <summary>"machines/{m}/driverFiles/{number}".</summary>
    public string File { get; }

    /// <summary>
    /// open: the errno of the driver, or the file. Throws RpcException (NOT_FOUND) when nobody serves the node.
    /// </summary>
    /// <param name="client">The daemon; must outlive the file.</param>
    /// <param name="driver">"machines/{m}/drivers/{node}".</param>
    /// <param name="lease">Lease that the file is closed with; null for none.</param>
    /// <param name="isNonBlocking">O_NONBLOCK.</param>
    /// <param name="cancelled">Gives it up.</param>
    public static async Task<(Errno Errno, DriverHandle? File)> OpenAsync(
        FramePinClient client, string driver, string? lease = null, bool isNonBlocking = false,
        CancellationToken cancelled = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var request = new OpenDriverFileRequest { Driver = driver, Lease = lease ?? "", NonBlocking = isNonBlocking };
        var answer = await client.Drivers.OpenDriverFileAsync(
            request, cancellationToken: cancelled).ConfigureAwait(false);
        return answer.Errno == 0 ? (Errno.None, new DriverHandle(client, answer.File)) : ((Errno)answer.Errno, null);
    }

    /// <summary>
    /// ioctl: the driver's errno and its answer. ENODEV when the driver's process is gone. Has no deadline: a call that
    /// blocks ends by <paramref name="cancelled"/>.
    /// </summary>
    /// <param name="space">Address space that pointers in the argument mean; empty when there are none.</param>
    /// <param name="command">Such as "VIDIOC_QBUF".</param>
    /// <param name="argument">What the driver expects with it.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call.</param>
    /// <param name="cancelled">A signal: the driver is told to stop waiting.</param>
    public async Task<(Errno Errno, T Answer)> IoctlAsync<T>(
        string space, string command, T argument, bool isNonBlocking = false, CancellationToken cancelled = default)
        where T : IMessage<T>, new()
    {
        var request = new IoctlRequest
        {
            File = File,
            Command = command,
            Argument = argument.ToByteString(),
            AddressSpace = space,
            NonBlocking = isNonBlocking,
        };
        var answer = await _client.Drivers.IoctlAsync(
            request, deadline: DateTime.MaxValue, cancellationToken: cancelled).ConfigureAwait(false);
        var result = new T();
        result.MergeFrom(answer.Argument);
        return ((Errno)answer.Errno, result);
    }

    /// <summary>
    /// ioctl in the form of Linux, as a real program calls it: the driver's errno, the argument's bytes as the driver
    /// leaves them, and what ioctl returns. Has no deadline, as the typed form.
    /// </summary>
    /// <param name="space">Address space that pointers in the argument mean; empty when there are none.</param>
    /// <param name="request">The number that _IO, _IOR, _IOW and _IOWR make.</param>
    /// <param name="argument">The bytes behind the argument's pointer.</param>
    /// <param name="value">The argument itself, for requests whose argument is a number and no pointer.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call.</param>
    /// <param name="cancelled">A signal: the driver is told to stop waiting.</param>
    public async Task<(Errno Errno, ReadOnlyMemory<byte> Argument, uint Value)> UapiIoctlAsync(
        string space, uint request, ReadOnlyMemory<byte> argument, ulong value = 0, bool isNonBlocking = false,
        CancellationToken cancelled = default)
    {
        var call = new IoctlRequest
        {
            File = File,
            Request = request,
            Argument = ByteString.CopyFrom(argument.Span),
            Value = value,
            AddressSpace = space,
            NonBlocking = isNonBlocking,
        };
        var answer = await _client.Drivers.IoctlAsync(call, deadline: DateTime.MaxValue, cancellationToken: cancelled)
            .ConfigureAwait(false);
        return ((Errno)answer.Errno, answer.Argument.Memory, answer.Value);
    }

    /// <summary>
    /// read: from the file to memory of an address space; the bytes done, or the driver's errno. No deadline, as for
    /// ioctl.
    /// </summary>
    public Task<(Errno Errno, ulong Bytes)> ReadAsync(
        string space, ulong address, ulong length, bool isNonBlocking = false, CancellationToken cancelled = default) =>
        TransferAsync(space, address, length, isWrite: false, isNonBlocking, cancelled);

    /// <summary>write: the reverse.</summary>
    public Task<(Errno Errno, ulong Bytes)> WriteAsync(
        string space, ulong address, ulong length, bool isNonBlocking = false, CancellationToken cancelled = default) =>
        TransferAsync(space, address, length, isWrite: true, isNonBlocking, cancelled);

    private async Task<(Errno Errno, ulong Bytes)> TransferAsync(
        string space, ulong address, ulong length, bool isWrite, bool isNonBlocking, CancellationToken cancelled)
    {
        var request = new TransferDriverFileRequest
        {
            File = File,
            Write = isWrite,
            AddressSpace = space,
            Address = address,
            Length = length,
            NonBlocking = isNonBlocking,
        };
        var answer = await _client.Drivers.TransferDriverFileAsync(
            request, deadline: DateTime.MaxValue, cancellationToken: cancelled).ConfigureAwait(false);
        return ((Errno)answer.Errno, answer.Bytes);
    }

    /// <summary>mmap of the file: the address, or the errno of the driver or of mmap.</summary>
    public async Task<(Errno Errno, ulong Address)> MapAsync(
        string space, ulong length, uint prot, uint flags, ulong offset, ulong address = 0,
        CancellationToken cancelled = default)
    {
        var request = new MapDriverFileRequest
        {
            File = File,
            AddressSpace = space,
            Address = address,
            Length = length,
            Prot = prot,
            Flags = flags,
            Offset = offset,
        };
        var answer = await _client.Drivers.MapDriverFileAsync(
            request, cancellationToken: cancelled).ConfigureAwait(false);
        return ((Errno)answer.Errno, answer.Address);
    }

    /// <summary>close: waits until the driver has released the file.</summary>
    public async ValueTask DisposeAsync()
    {
        try
        {
            await _client.Drivers.CloseDriverFileAsync(
                new CloseDriverFileRequest { File = File }).ConfigureAwait(false);
        }
        catch (Grpc.Core.RpcException)
        {
            // The daemon is gone, and the file with it.
        }
    }
}
