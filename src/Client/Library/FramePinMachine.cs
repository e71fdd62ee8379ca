using System.Runtime.CompilerServices;
using FramePin.V1;

namespace FramePin.Client;

/// <summary>What an audit of a machine found.</summary>
/// <param name="Findings">A sentence for each finding; empty when all is well.</param>
/// <param name="Digest">SHA-256 over the machine's state except the contents of its memory, in hex.</param>
public sealed record MachineAudit(IReadOnlyList<string> Findings, string Digest);

/// <summary>An emulated computer on the daemon: its address spaces, files, devices, leases and faults.</summary>
/// <remarks>
/// Any thread. The object is a name and its client: it holds nothing on the daemon, and two objects of one name are
/// equal in effect. Every method is one call unless it says otherwise. All of them throw
/// <see cref="FramePinException"/>: NotFound for a machine that is gone, ResourceExhausted at a limit of the daemon.
/// </remarks>
public sealed class FramePinMachine
{
    internal FramePinMachine(FramePinClient client, MachineName name)
    {
        Client = client;
        Name = name;
    }

    /// <summary>"machines/{id}".</summary>
    public MachineName Name { get; }

    /// <summary>The connection.</summary>
    public FramePinClient Client { get; }

    /// <summary>Describes the machine: its specification, its counts and its kernel's features.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<Machine> GetAsync(CancellationToken cancellationToken = default) =>
        Client.Machines.GetMachineAsync(new GetMachineRequest { Name = Name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>Deletes the machine and everything in it.</summary>
    /// <param name="force">Delete it although frames are pinned, which is refused otherwise.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task DeleteAsync(bool force = false, CancellationToken cancellationToken = default) =>
        Client.Machines.DeleteMachineAsync(
            new DeleteMachineRequest { Name = Name, Force = force, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>Recomputes every count from the structures themselves and compares. Changes nothing.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<MachineAudit> AuditAsync(CancellationToken cancellationToken = default)
    {
        var answer = await Client.Machines.AuditMachineAsync(
            new AuditMachineRequest { Name = Name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new MachineAudit([.. answer.Findings], answer.Digest);
    }

    /// <summary>Adds rules to the machine's fault plan, behind those that are there.</summary>
    /// <param name="rules">What happens at which choice point, how often.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task AddFaultRulesAsync(IEnumerable<FaultRule> rules, CancellationToken cancellationToken = default) =>
        Client.Machines.AddFaultRulesAsync(
            new AddFaultRulesRequest { Machine = Name, Rules = { rules }, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>Removes every rule of the fault plan.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task ClearFaultRulesAsync(CancellationToken cancellationToken = default) =>
        Client.Machines.ClearFaultRulesAsync(
            new ClearFaultRulesRequest { Machine = Name, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>Lets pins go on that a fault rule has parked. Returns how many there were.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<int> ResumePinsAsync(CancellationToken cancellationToken = default)
    {
        var answer = await Client.Pinning.ResumePinsAsync(
            new ResumePinsRequest { Machine = Name, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return (int)answer.Resumed;
    }

    /// <summary>Makes an empty address space, as a process has one after exec.</summary>
    /// <param name="options">Its name, layout, limits and lease; defaults when null.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<FramePinAddressSpace> CreateAddressSpaceAsync(
        AddressSpaceOptions? options = null, CancellationToken cancellationToken = default)
    {
        var request = new CreateAddressSpaceRequest
        {
            Parent = Name,
            AddressSpaceId = options?.Id ?? "",
            Layout = options?.Layout,
            Task = options?.Task,
            Lease = options?.Lease ?? "",
            RequestId = FramePinCalls.NewRequestId(),
        };
        var space = await Client.AddressSpaces.CreateAddressSpaceAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new FramePinAddressSpace(Client, AddressSpaceName.Parse(space.Name));
    }

    /// <summary>An address space of the machine by its id. Makes no call.</summary>
    /// <param name="id">Last segment of its name.</param>
    /// <exception cref="ArgumentException"><paramref name="id"/> is no id.</exception>
    public FramePinAddressSpace GetAddressSpace(string id) => new(Client, new AddressSpaceName(Name, id));

    /// <summary>Describes the machine's address spaces, a page of the list a call.</summary>
    /// <param name="cancellationToken">Gives the listing up.</param>
    public async IAsyncEnumerable<AddressSpace> ListAddressSpacesAsync(
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        var request = new ListAddressSpacesRequest { Parent = Name };
        do
        {
            var page = await Client.AddressSpaces.ListAddressSpacesAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            foreach (var space in page.AddressSpaces) yield return space;
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
    }

    /// <summary>Describes the machine's frame vectors, oldest first, a page of the list a call.</summary>
    /// <param name="cancellationToken">Gives the listing up.</param>
    public async IAsyncEnumerable<FrameVector> ListFrameVectorsAsync(
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        var request = new ListFrameVectorsRequest { Parent = Name };
        do
        {
            var page = await Client.Pinning.ListFrameVectorsAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            foreach (var vector in page.FrameVectors) yield return vector;
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
    }

    /// <summary>Makes a memory file, the object behind a file descriptor that is mapped.</summary>
    /// <param name="kind">Kind of its file system.</param>
    /// <param name="sizeBytes">Size in bytes.</param>
    /// <param name="options">Its name and what maps shows of it; defaults when null.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<FramePinFile> CreateFileAsync(
        FileKind kind, ulong sizeBytes, MemoryFileOptions? options = null,
        CancellationToken cancellationToken = default)
    {
        var request = new CreateFileRequest
        {
            Parent = Name,
            FileId = options?.Id ?? "",
            Kind = kind,
            SizeBytes = sizeBytes,
            Path = options?.Path ?? "",
            Device = options?.Device ?? "",
            Inode = options?.Inode ?? 0,
            HugePageBytes = options?.HugePageBytes ?? 0,
            RequestId = FramePinCalls.NewRequestId(),
        };
        var file = await Client.Files.CreateFileAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new FramePinFile(Client, MemoryFileName.Parse(file.Name));
    }

    /// <summary>Makes a device, an owner of a range of frame numbers and of mappings over them.</summary>
    /// <param name="mapping">How its mmap method maps the range.</param>
    /// <param name="pages">Pages of 4 KiB, at least 1.</param>
    /// <param name="options">Its name, kind of memory and lease; defaults when null.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<FramePinDevice> CreateDeviceAsync(
        DeviceMapping mapping, long pages, DeviceOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(pages);
        var request = new CreateDeviceRequest
        {
            Parent = Name,
            DeviceId = options?.Id ?? "",
            Mapping = mapping,
            Pages = (ulong)pages,
            Ram = options?.IsRam ?? false,
            Path = options?.Path ?? "",
            HasClose = options?.HasClose ?? false,
            ReadOnly = options?.IsReadOnly ?? false,
            RemapsInParts = options?.RemapsInParts ?? false,
            AnonymousInode = options?.IsAnonymousInode ?? false,
            NoAccess = options?.HasNoAccess ?? false,
            Lease = options?.Lease ?? "",
            RequestId = FramePinCalls.NewRequestId(),
        };
        var device = await Client.Devices.CreateDeviceAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new FramePinDevice(Client, DeviceName.Parse(device.Name));
    }

    /// <summary>Opens a lease on the machine, which keeps itself alive until it is disposed.</summary>
    /// <param name="owner">The client in its own words, for people.</param>
    /// <param name="ttl">Time without a sign of life after which it ends; the daemon's default when null.</param>
    /// <param name="cancellationToken">Gives the opening up.</param>
    public Task<FramePinLease> OpenLeaseAsync(
        string owner, TimeSpan? ttl = null, CancellationToken cancellationToken = default) =>
        FramePinLease.OpenAsync(Client, Name, owner, ttl, cancellationToken: cancellationToken);

    /// <summary>Attaches this process to the machine's memory. Only a process on the daemon's host can.</summary>
    /// <param name="isReadOnly">Asks for memory that this process cannot write.</param>
    /// <param name="lease">Lease that the attachment ends with; null for none.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="UnauthorizedAccessException">The daemon's attach socket sends this process away.</exception>
    public Task<LocalMachine> AttachAsync(
        bool isReadOnly = false, LeaseName? lease = null, CancellationToken cancellationToken = default) =>
        LocalMachine.AttachAsync(Client, Name, lease?.ToString(), isReadOnly, cancellationToken);

    /// <summary>The name of the machine.</summary>
    public override string ToString() => Name.ToString();
}
