using System.Collections.Concurrent;
using FramePin.Client;
using FramePin.Core.Addressing;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Tests.Support;
using FramePin.V1;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// A client of <see cref="FourClientTests"/>: a connection, an address space and two open files, on which it makes
/// random calls one after the other. It notes which of its buffers are queued, and holds the queue to it.
/// </summary>
internal sealed partial class FuzzClient : IAsyncDisposable
{
    private const ulong At = 0x1000_0000;
    private const ulong Step = 0x10_0000;
    private const int Areas = 4;
    private const int Pages = 2;
    private const int MostMappings = 8;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private static readonly Errno[] Known =
        [Errno.None, Errno.EINVAL, Errno.EBUSY, Errno.EFAULT, Errno.EAGAIN, Errno.EIO, Errno.ENOBUFS, Errno.ENOTTY,
            Errno.ENOMEM];

    private readonly FramePinClient _client;
    private readonly VividRig _rig;
    private readonly Lab _lab;
    private readonly string _space;
    private readonly Random _random;
    private readonly ConcurrentDictionary<string, byte> _dmaBufs;
    private readonly FuzzFile[] _files = new FuzzFile[2];
    private readonly Queue<ulong> _mappings = new();

    private FuzzClient(
        FramePinClient client, VividRig rig, string space, int seed, ConcurrentDictionary<string, byte> dmaBufs)
    {
        (_client, _rig, _space, _dmaBufs) = (client, rig, space, dmaBufs);
        _random = new Random(seed);
        _lab = new Lab(rig.Machine, rig.Daemon.SpaceOf(space));
        for (var area = 0; area < Areas; area++) _lab.Anon(At + ((ulong)area * Step), Pages);
    }

    /// <summary>Calls and their answers, by name.</summary>
    public SortedDictionary<string, int> Seen { get; } = new(StringComparer.Ordinal);

    /// <param name="rig">The nodes.</param>
    /// <param name="seed">Decides the calls.</param>
    /// <param name="dmaBufs">Dma-bufs that any client exported and none closed, shared by the clients.</param>
    public static async Task<FuzzClient> CreateAsync(
        VividRig rig, int seed, ConcurrentDictionary<string, byte> dmaBufs)
    {
        var client = FramePinClient.Connect(rig.Daemon.Endpoint);
        var space = await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = rig.MachineName });
        var made = new FuzzClient(client, rig, space.Name, seed, dmaBufs);
        for (var node = 0; node < made._files.Length; node++) await made.OpenAsync(node);
        return made;
    }

    /// <summary>Makes so many calls.</summary>
    public async Task RunAsync(int steps)
    {
        for (var step = 0; step < steps; step++)
        {
            var file = Next();
            var (what, errno) = await StepAsync(file).WaitAsync(Patience);
            file.IsBroken = errno == Errno.EIO;
            Note(what, errno);
        }
    }

    /// <summary>Whether the queued buffers of both files are queued or done in the books of the driver.</summary>
    public async Task CheckAsync()
    {
        foreach (var file in _files) await CheckAsync(file);
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var file in _files) await file.Device.DisposeAsync();
        await _client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = _space });
        _client.Dispose();
    }

    /// <summary>Most often a file that has its queue: the others are answered EBUSY.</summary>
    private FuzzFile Next()
    {
        var file = _files[_random.Next(_files.Length)];
        return file.Has == QueueUse.Nothing && _random.Next(8) != 0
            ? _files.FirstOrDefault(other => other.Has != QueueUse.Nothing, file)
            : file;
    }

    private void Note(string what, Errno errno, bool isClosed = false)
    {
        if (!Known.Contains(errno) && !(isClosed && errno is Errno.ENODEV or Errno.EINTR))
            throw new InvalidOperationException($"{what} answers {errno}");
        Seen[$"{what} {errno}"] = Seen.GetValueOrDefault($"{what} {errno}") + 1;
    }

    /// <summary>
    /// A buffer that the client queued and did not get back is lost when it is neither queued nor done.
    /// </summary>
    private static async Task CheckAsync(FuzzFile file)
    {
        foreach (var index in file.Queued)
        {
            var (errno, buffer) = await file.Device.QueryAsync(index);
            if (errno != Errno.None || (buffer.Flags & (V4l2.FlagQueued | V4l2.FlagDone)) == 0)
                throw new InvalidOperationException(
                    $"buffer {index} is lost: QUERYBUF answers {errno} and flags {buffer.Flags:x}");
        }
    }

    /// <summary>Opens a node anew, with a lease every other time, which a kill ends.</summary>
    private async Task OpenAsync(int node)
    {
        var lease = "";
        if (_random.Next(2) == 0)
            lease = (await _client.Leases.OpenLeaseAsync(
                new OpenLeaseRequest { Parent = _rig.MachineName, Owner = "fuzz" })).Name;
        _files[node] = new FuzzFile(node, lease, await V4l2Device.OpenAsync(
            _client, $"{_rig.MachineName}/drivers/video{node}", _space, lease.Length > 0 ? lease : null));
    }

    /// <summary>The file is closed, or its lease ends. What it had of the queue goes with it.</summary>
    private async Task<(string What, Errno Errno)> CloseAsync(FuzzFile file)
    {
        var what = "close";
        if (file.Lease.Length > 0 && _random.Next(2) == 0)
        {
            what = "kill";
            await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = file.Lease });
        }

        await file.Device.DisposeAsync();
        if (what == "close" && file.Lease.Length > 0)
            await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = file.Lease });
        await OpenAsync(file.Node);
        return (what, Errno.None);
    }

    /// <summary>A file is closed under a DQBUF that waits, or that has a frame.</summary>
    private async Task<(string What, Errno Errno)> CloseUnderAsync(FuzzFile file)
    {
        var waiting = file.Device.DequeueAsync((uint)Vb2Memory.Mmap);
        var closed = await CloseAsync(file);
        Note("DQBUF closed", (await waiting).Errno, isClosed: true);
        return closed;
    }

    /// <summary>A DQBUF waits while the same client calls something else on the file.</summary>
    private async Task<(string What, Errno Errno)> BesideAsync(FuzzFile file, uint memory)
    {
        using var signal = new CancellationTokenSource();
        var waiting = file.Device.DequeueAsync(memory, cancellationToken: signal.Token);
        var index = AnyIndex();
        var errno = _random.Next(4) switch
        {
            0 => (await file.Device.RequestBuffersAsync(2, memory)).Errno,
            1 => await file.Device.StreamOffAsync(),
            2 => (await file.Device.PollAsync(PollEvents.In | PollEvents.Out, TimeSpan.Zero)).Errno,
            _ => (await file.Device.QueueAsync(Buffer(index, memory))).Errno,
        };
        await signal.CancelAsync();
        // In which order the two came is not known: nothing is held against the file before it begins anew.
        file.IsKnown = false;
        try
        {
            Note("DQBUF beside", (await waiting).Errno);
        }
        catch (OperationCanceledException)
        {
            Note("DQBUF beside given up", Errno.None);
        }

        return ("beside", errno);
    }
}

/// <summary>What a file uses its queue for, as far as its client saw.</summary>
internal enum QueueUse
{
    Nothing,

    /// <summary>It has buffers.</summary>
    Buffers,

    /// <summary>read() or write().</summary>
    FileIo,
}

/// <summary>An open file of a <see cref="FuzzClient"/>.</summary>
/// <param name="Node">0: video0, 1: video1.</param>
/// <param name="Lease">The lease that it is closed with; empty for none.</param>
/// <param name="Device">The file.</param>
internal sealed record FuzzFile(int Node, string Lease, V4l2Device Device)
{
    private readonly HashSet<uint> _queued = [];

    /// <summary>Buffers that QBUF took and DQBUF did not give back. None while it is not known.</summary>
    public IReadOnlyCollection<uint> Queued => IsKnown ? _queued : [];

    /// <summary>Whether the buffers are followed. From the moment on when all were the client's.</summary>
    public bool IsKnown { get; set; } = true;

    /// <summary>What it has of the queue. Decides which calls come more often, and nothing else.</summary>
    public QueueUse Has { get; set; }

    /// <summary>Memory of the buffers that it asked for last.</summary>
    public uint Memory { get; set; }

    /// <summary>The last call was answered EIO: STREAMOFF mends it.</summary>
    public bool IsBroken { get; set; }

    /// <summary>QBUF took a buffer.</summary>
    public void Give(uint index) => _queued.Add(index);

    /// <summary>DQBUF gave a buffer.</summary>
    public void Take(uint index)
    {
        if (!_queued.Remove(index) && IsKnown)
            throw new InvalidOperationException($"DQBUF gives buffer {index}, which is not queued");
    }

    /// <summary>All buffers are the client's again, or gone.</summary>
    public void Clear()
    {
        _queued.Clear();
        IsKnown = true;
    }
}
