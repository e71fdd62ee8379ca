using FramePin.V1;

namespace FramePin.Client;

/// <summary>A device of a machine.</summary>
/// <remarks>
/// Any thread. The object is a name and its client: the device lives until it is deleted, its lease ends or its machine
/// goes. Every method is one call and throws <see cref="FramePinException"/>: NotFound for a device that is gone.
/// </remarks>
public sealed class FramePinDevice
{
    private readonly FramePinClient _client;

    internal FramePinDevice(FramePinClient client, DeviceName name)
    {
        _client = client;
        Name = name;
    }

    /// <summary>"machines/{machine}/devices/{id}".</summary>
    public DeviceName Name { get; }

    /// <summary>Describes the device.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<Device> GetAsync(CancellationToken cancellationToken = default) =>
        _client.Devices.GetDeviceAsync(new GetDeviceRequest { Name = Name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>
    /// Makes a pin with a reference to each page of the device's RAM, as a dma-buf holds the buffer that it was
    /// exported from. The pin outlives the device. Refused with "NO_PAGES" for MMIO.
    /// </summary>
    /// <param name="lease">Lease that owns the pin; null: it lives until it is unpinned.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<Pin> ExportAsync(LeaseName? lease = null, CancellationToken cancellationToken = default)
    {
        var request = new ExportDeviceRequest
        {
            Name = Name,
            Lease = lease ?? "",
            RequestId = FramePinCalls.NewRequestId()
        };
        var answer = await _client.Devices.ExportDeviceAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        var name = FrameVectorName.Parse(answer.FrameVector);
        var vector = await _client.Pinning.GetFrameVectorAsync(
            new GetFrameVectorRequest { Name = name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new Pin(_client, name, vector);
    }

    /// <summary>Deletes the device. Its memory lives on under the mappings and pins that exist.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task DeleteAsync(CancellationToken cancellationToken = default) =>
        _client.Devices.DeleteDeviceAsync(
            new DeleteDeviceRequest { Name = Name, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>The name of the device.</summary>
    public override string ToString() => Name.ToString();
}
